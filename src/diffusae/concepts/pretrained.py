"""Loading of pretrained vision models by transformers: safetensors only, no code of the models.

Pictures are always prepared by the PIL-based processors, so that results do not depend on whether
torchvision is installed.
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

from diffusae.devices import default_device
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


@dataclass(frozen=True)
class Pretrained:
    """One pretrained model, loaded at the first use.

    Args:
        source: a folder in the transformers layout or a hub id ("owner/name").
        setting: the config key of the source, for error messages.
        revision: the hub's commit; None takes the newest of `main` and warns.
        dtype: "float32", "float16" or "bfloat16".
        device: None is the GPU where there is one.

    Raises:
        UserError: an unknown dtype; at loading: no folder, an unreachable hub, pickled weights,
            weights that do not fit.
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
        """The local folder of the files; a hub id is downloaded at the first use."""
        from huggingface_hub import snapshot_download

        def download(name: str) -> str:
            if self.revision is None:
                log.warning("%s=%s has no revision: its files may change", self.setting, name)
            return snapshot_download(name, revision=self.revision, allow_patterns=_DOWNLOADED)

        holds = "config.json, preprocessor_config.json, the tokenizer's files and model.safetensors"
        folder = local_folder(
            self.source,
            setting=self.setting,
            holds=holds,
            revision=self.revision,
            download=download,
        )
        require_own_files(folder)
        refuse_pickles(folder)
        return folder

    def identity(self) -> str:
        """The hash of a local folder's files, or the hub id and its revision."""
        suffixes = (".safetensors", ".json", ".txt", ".model")
        local = fingerprint(Path(self.source).expanduser(), suffixes=suffixes)
        return f"files {local}" if local else f"{self.source}@{self.revision or 'main'}"

    def model(self, kind: Any) -> Any:
        """The model in eval mode; `kind` is a transformers class such as `AutoModel`.

        Raises:
            UserError: see the class; also weights that the files lack and that would stay random.
        """
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()  # the files are local by now
        with self._errors_explained():
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
        name = type(model).__name__
        log.info("loaded %s from %s as %s on %s", name, self.folder, self.dtype, self.where)
        return model.eval().to(self.where)

    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        from transformers import AutoTokenizer

        with self._errors_explained():
            return AutoTokenizer.from_pretrained(
                str(self.folder), trust_remote_code=False, local_files_only=True
            )

    def image_processor(self) -> Any:
        """The model's picture preparation, based on PIL."""
        from transformers import AutoImageProcessor

        with self._errors_explained():
            return AutoImageProcessor.from_pretrained(
                str(self.folder), backend="pil", trust_remote_code=False, local_files_only=True
            )

    def processor(self) -> Any:
        """The model's preparation of pictures (by PIL) and texts together."""
        from transformers import AutoProcessor

        with self._errors_explained():
            return AutoProcessor.from_pretrained(
                str(self.folder), backend="pil", trust_remote_code=False, local_files_only=True
            )

    @contextmanager
    def _errors_explained(self) -> Iterator[None]:
        """Load without progress bars; errors become a `UserError` with a remedy."""
        import transformers.utils.logging as library

        shown = library.is_progress_bar_enabled()
        library.disable_progress_bar()
        try:
            yield
        except UserError:
            raise
        except _FAULTS as error:
            remedy = f"set {self.setting} to another"
            if "sentencepiece" in str(error).lower():
                remedy = "run: pip install diffusae[siglip]"
            reason = first_line(error)
            raise UserError(f"{self.folder} does not load: {reason}; {remedy}") from error
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
            remedy = "use a smaller model or dtype: float16"
            if size > 1:
                remedy = f"try {setting}={size // 2}"
            raise UserError(f"out of memory with {setting}={size}; {remedy}") from error
    return made
