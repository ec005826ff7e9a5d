"""The files of a research checkpoint: one file of tensors, a pickle or safetensors, and perhaps a
JSON configuration beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusae.errors import UserError
from diffusae.parsing import json_value, of_type, read_json, reading
from diffusae.sae.pickled import PICKLES, as_safetensors
from diffusae.tensor_files import Header, read_header

CONFIGS = ("config.json", "cfg.json")
MAIN_NAME = "state_dict"
"""The file of tensors is called so in several repositories, where statistics lie beside it."""
_REMEDY = "copy or save it again"
_OF_FOLDER = re.compile(r"(?:unet|transformer|text_encoder(?:_[23])?)\.[\w.]+?(?=_k\d+_|$)")


@dataclass(frozen=True, kw_only=True)
class Stated:
    """What the files of some formats do not say, and the user does; None: not said.

    Attributes:
        k: latents that are active at a position.
        threshold: pre-activations above it are active.
        scale: what vectors were divided by before the autoencoder saw them.
        timestep: the scheduler's own value at which a format that depends on time is taken.
    """

    k: int | None = None
    threshold: float | None = None
    scale: float = 1.0
    timestep: float | None = None


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An opened checkpoint.

    Attributes:
        path: the file of tensors, as its authors named it.
        weights: the same as safetensors.
        header: of `weights`.
        values: what the JSON beside it says; without JSON, the plain values of the pickle.
        said_in: the file of the values, for messages.
        files: all that decides an import.
    """

    path: Path
    weights: Path
    header: Header
    values: Mapping[str, Any]
    said_in: str
    files: tuple[Path, ...]

    def hookpoint(self) -> str | None:
        """The module's path that the name of the file's folder, or of the one above it, begins
        with: "unet.mid_block.attentions.0" of "unet.mid_block.attentions.0_k10_hidden5120/final".
        """
        return hookpoint_of(self.path.absolute().parts[:-1])


def hookpoint_of(folders: Sequence[str]) -> str | None:
    """The module's path that the last folder's name begins with, or the name above it."""
    for folder in reversed(folders[-2:]):
        if match := _OF_FOLDER.match(folder):
            return match[0]
    return None


@contextmanager
def opened(source: Path) -> Iterator[Checkpoint]:
    """The checkpoint at `source`, a file of tensors or the directory of one.

    Raises:
        UserError: there is none, or several and no name tells which; a file is damaged, or a
            pickle holds more than tensors and plain values.
    """
    path = source if source.is_file() else _only_file(source)
    config = next(
        (path.with_name(name) for name in CONFIGS if path.with_name(name).is_file()), None
    )
    if path.suffix == ".safetensors":
        yield _checkpoint(path, path, config)
    else:
        with as_safetensors(path) as weights:
            try:
                yield _checkpoint(path, weights, config)
            except UserError as error:  # whose file lies elsewhere
                raise UserError(str(error).replace(str(weights), str(path))) from error


def _checkpoint(path: Path, weights: Path, config: Path | None) -> Checkpoint:
    header = read_header(weights, remedy=_REMEDY)
    if config is not None:
        values = read_json(config, remedy=_REMEDY)
    else:
        with reading(path, remedy=_REMEDY):
            values = of_type(json_value(header.metadata.get("values", "{}")), dict, "values")
    return Checkpoint(
        path=path,
        weights=weights,
        header=header,
        values=values,
        said_in=(config or path).name,
        files=(path,) if config is None else (path, config),
    )


def _only_file(directory: Path) -> Path:
    """The file of tensors in a directory."""
    files = sorted(
        path for path in directory.iterdir() if path.suffix in (*PICKLES, ".safetensors")
    )
    files = [path for path in files if path.stem == MAIN_NAME] or files
    if len(files) != 1:
        names = ", ".join(path.name for path in files[:8]) or "none"
        raise UserError(
            f"{directory} must hold one file of tensors, holds {names}; name one: source=FILE"
        )
    return files[0]
