"""Pretrained vision models of transformers: safetensors only, no code of the model's, no
torchvision, one message each.

Pictures are prepared by the PIL-based processors whatever is installed, so that results do not
depend on torchvision.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError

from diffusae.errors import UserError, unknown
from diffusae.sources import (
    fingerprint,
    first_line,
    local_folder,
    refuse_pickles,
    require_own_files,
)

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

_DOWNLOADED = ["*.json", "*.txt", "*.model", "*.safetensors"]
_FAULTS = (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError)

Item = TypeVar("Item")
Made = TypeVar("Made")


def default_device(device: str | None) -> torch.device:
    """`device`, or the GPU where there is one."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


@dataclass(frozen=True)
class Pretrained:
    """One pretrained model, loaded when it is first asked for.

    Args:
        source: a folder in the transformers layout or a hub id ("owner/name").
        setting: the config value that names the source, for the messages.
        revision: the hub's commit; None takes what `main` holds and warns.
        dtype: "float32", "float16" or "bfloat16".
        device: None is the GPU where there is one.

    Raises:
        UserError: an unknown dtype; where a model is loaded, no folder, an unreachable hub, pickled
            weights, weights that do not fit.
    """

    source: str
    setting: str
    revision: str | None = None
    dtype: str = "float32"
    device: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise unknown("dtype", self.dtype, DTYPES)

    @property
    def where(self) -> torch.device:
        """The device that the model runs on."""
        return default_device(self.device)

    @cached_property
    def folder(self) -> Path:
        """The local folder of the files; downloads a hub id's at the first use."""
        from huggingface_hub import snapshot_download

        def download(name: str) -> str:
            if self.revision is None:
                log.warning("%s=%s has no revision: what it is may change", self.setting, name)
            return snapshot_download(name, revision=self.revision, allow_patterns=_DOWNLOADED)

        folder = local_folder(
            self.source,
            setting=self.setting,
            holds=(
                "config.json, preprocessor_config.json, the tokenizer's files and model.safetensors"
            ),
            revision=self.revision,
            download=download,
        )
        require_own_files(folder)
        refuse_pickles(folder)
        return folder

    def identity(self) -> str:
        """What tells this model from another: the files' hash of a local folder, or the hub id and
        its revision.
        """
        local = fingerprint(
            Path(self.source).expanduser(), suffixes=(".safetensors", ".json", ".txt", ".model")
        )
        return f"files {local}" if local else f"{self.source}@{self.revision or 'main'}"

    def model(self, kind: Any) -> Any:
        """The model in eval mode, of a transformers class such as `AutoModel`.

        Raises:
            UserError: see the class; also weights that the file lacks, which would stay random.
        """
        with self._told():
            model, report = kind.from_pretrained(
                str(self.folder),
                dtype=DTYPES[self.dtype],
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
        if missing := sorted(report["missing_keys"]):
            raise UserError(
                f"{self.folder} holds no weights for {len(missing)} parts of {type(model).__name__}"
                f" (such as {missing[0]}), which would stay random; set {self.setting} to a model"
                " of this kind"
            )
        log.info(
            "loaded %s from %s as %s on %s",
            type(model).__name__,
            self.folder,
            self.dtype,
            self.where,
        )
        return model.eval().to(self.where)

    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        from transformers import AutoTokenizer

        with self._told():
            return AutoTokenizer.from_pretrained(
                str(self.folder), trust_remote_code=False, local_files_only=True
            )

    def image_processor(self) -> Any:
        """The model's picture preparation, based on PIL."""
        from transformers import AutoImageProcessor

        with self._told():
            return AutoImageProcessor.from_pretrained(
                str(self.folder), backend="pil", trust_remote_code=False, local_files_only=True
            )

    def processor(self) -> Any:
        """What prepares pictures and texts together, for models that mix them; pictures by PIL here
        too.
        """
        from transformers import AutoProcessor

        with self._told():
            return AutoProcessor.from_pretrained(
                str(self.folder), backend="pil", trust_remote_code=False, local_files_only=True
            )

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Loading without progress bars, and with errors that say what to change."""
        import transformers.utils.logging as library

        shown = library.is_progress_bar_enabled()
        library.disable_progress_bar()
        try:
            yield
        except UserError:
            raise
        except _FAULTS as error:
            hint = (
                "; run: pip install diffusae[siglip]"
                if "sentencepiece" in str(error).lower()
                else ""
            )
            raise UserError(
                f"{self.folder} does not load:"
                f" {first_line(error)}{hint or f'; set {self.setting} to another'}"
            ) from error
        finally:
            if shown:
                library.enable_progress_bar()


def in_batches(
    work: Callable[[Sequence[Item]], Sequence[Made]],
    items: Sequence[Item],
    *,
    size: int,
    setting: str,
) -> list[Made]:
    """`work` on `size` items at a time.

    Raises:
        UserError: `size` below 1; out of memory, with the batch size to try.
    """
    if size < 1:
        raise UserError(f"{setting}={size} must be at least 1; raise it")
    made: list[Made] = []
    for first in range(0, len(items), size):
        try:
            made += work(items[first : first + size])
        except (torch.OutOfMemoryError, MemoryError) as error:
            remedy = (
                f"try {setting}={size // 2}"
                if size > 1
                else "use a smaller model or dtype: float16"
            )
            raise UserError(f"out of memory with {setting}={size}; {remedy}") from error
    return made
