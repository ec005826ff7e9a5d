"""Autoencoders in the formats of other libraries, both ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from diffusae.errors import UserError, unknown
from diffusae.files import sha256_of
from diffusae.sae import sae_lens_format, sparsify_format, storage
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.folded import CodeUnits, Folded, fold, unfold
from diffusae.sae.foreign_files import CONFIG_NAME, read_config

PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt")


class Format(NamedTuple):
    """How one library stores an autoencoder."""

    weights: str
    write: Callable[[Path, Folded, Mapping[str, Any]], None]
    read: Callable[[Path], Folded]


FORMATS: Mapping[str, Format] = {
    "sae_lens": Format(sae_lens_format.WEIGHTS_NAME, sae_lens_format.write, sae_lens_format.read),
    "eai_sparsify": Format(
        sparsify_format.WEIGHTS_NAME, sparsify_format.write, sparsify_format.read
    ),
}


def export_sae(
    directory: Path | str, sae: SparseAutoencoder, *, format: str, metadata: Mapping[str, Any]
) -> CodeUnits:
    """Write the autoencoder for another library, atomically; the units in which it will give codes.

    `metadata` (any JSON object) goes into `cfg.json`, with `code_units` beside it.

    Raises:
        UserError: an unknown format, or a sparsity that it does not know.
    """
    folded = fold(sae)
    _known(format).write(Path(directory), folded, {**metadata, "code_units": folded.code_units})
    return folded.code_units


def import_sae(directory: Path | str, *, format: str | None = None) -> SparseAutoencoder:
    """The autoencoder that another library wrote, float32, computing the same x_hat to rounding.

    Raises:
        UserError: an unknown format, or a directory that holds nothing that can be represented.
    """
    directory = Path(directory)
    return unfold(_known(format or detect(directory)).read(directory))


def detect(directory: Path | str) -> str:
    """The name of the format that a directory is in.

    Raises:
        UserError: it is in none of them; the message names the files.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(
            f"{directory} is no directory; name one that holds a foreign SAE: source=DIR"
        )
    if (directory / sae_lens_format.WEIGHTS_NAME).is_file():
        return "sae_lens"
    if (directory / sparsify_format.WEIGHTS_NAME).is_file():
        if "format_version" in read_config(directory):
            raise UserError(
                f"{directory} holds an SAE in diffusae's own format {storage.FORMAT_VERSION}, not a"
                " foreign one; use it where it lies, by its experiment's name"
            )
        return "eai_sparsify"
    pickles = sorted(path.name for path in directory.iterdir() if path.suffix in PICKLES)
    if pickles:
        raise UserError(
            f"{directory} holds {', '.join(pickles)}: pickles are never read, they can run any"
            " code; save it as safetensors with the library that made it"
        )
    known = " or ".join(f"{format.weights} ({name})" for name, format in FORMATS.items())
    names = ", ".join(sorted(path.name for path in directory.iterdir())[:8]) or "nothing"
    raise UserError(f"{directory} must hold {known}, holds {names}; name the directory of one SAE")


def content_hashes(directory: Path | str, *, format: str) -> dict[str, str]:
    """SHA-256 of the two files that decide an import."""
    names = (CONFIG_NAME, _known(format).weights)
    return {name: sha256_of(Path(directory) / name) for name in names}


def _known(format: str) -> Format:
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    return FORMATS[format]
