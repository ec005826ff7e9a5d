"""Autoencoders in the formats of other libraries, both ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from diffusae.errors import UserError, unknown
from diffusae.files import sha256_of
from diffusae.sae import (
    diffract_format,
    overcomplete_format,
    revelio_format,
    sae_lens_format,
    saeuron_format,
    sparsify_format,
    storage,
    unbox_format,
)
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.belongs import Belongs
from diffusae.sae.checkpoint import Checkpoint, Stated, opened
from diffusae.sae.folded import CodeUnits, Folded, fold, unfold
from diffusae.sae.foreign_files import CONFIG_NAME, read_config
from diffusae.sae.pickled import PICKLES
from diffusae.settings import is_number


class Format(NamedTuple):
    """How one library stores an autoencoder, both ways."""

    weights: str
    write: Callable[[Path, Folded, Mapping[str, Any]], None]
    read: Callable[[Path], Folded]


FORMATS: Mapping[str, Format] = {
    "sae_lens": Format(sae_lens_format.WEIGHTS_NAME, sae_lens_format.write, sae_lens_format.read),
    "eai_sparsify": Format(
        sparsify_format.WEIGHTS_NAME, sparsify_format.write, sparsify_format.read
    ),
}


class ResearchFormat(NamedTuple):
    """How a paper's code or a library without settings in its files stores an autoencoder."""

    read: Callable[[Checkpoint, Stated], Folded]
    belongs: Callable[[Checkpoint], Belongs]
    tensors: frozenset[str]
    """Names by which a file is recognised."""
    marked: Callable[[Checkpoint], bool] = lambda _: True
    """What else tells it from a format with the same tensors."""


RESEARCH: Mapping[str, ResearchFormat] = {
    "steerers": ResearchFormat(
        unbox_format.read,
        unbox_format.belongs_of_steerers,
        frozenset(unbox_format.AXES),
        unbox_format.is_of_steerers,
    ),
    "sdxl_unbox": ResearchFormat(
        unbox_format.read, unbox_format.belongs, frozenset(unbox_format.AXES)
    ),
    "saeuron": ResearchFormat(
        saeuron_format.read, saeuron_format.belongs, frozenset(saeuron_format.AXES)
    ),
    "revelio": ResearchFormat(
        revelio_format.read, revelio_format.belongs, frozenset(revelio_format.AXES)
    ),
    "overcomplete": ResearchFormat(
        overcomplete_format.read,
        overcomplete_format.belongs,
        frozenset((overcomplete_format.WEIGHTS, overcomplete_format.MULTIPLIER)),
    ),
    "diffract": ResearchFormat(
        diffract_format.read, diffract_format.belongs, frozenset(diffract_format.AXES)
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


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """Another's autoencoder, read.

    Attributes:
        sae: float32, computing the same x_hat to rounding.
        format: the name of its format.
        belongs: what its files say that it was trained on.
        files: name -> SHA-256 of the files that decide it.
        depends_on_time: whether `Stated.timestep` is part of its weights.
    """

    sae: SparseAutoencoder
    format: str
    belongs: Belongs
    files: Mapping[str, str]
    depends_on_time: bool = False


def import_sae(source: Path | str, *, format: str | None = None) -> SparseAutoencoder:
    """The autoencoder of `read_foreign`."""
    return read_foreign(source, format=format).sae


def read_foreign(
    source: Path | str, *, format: str | None = None, stated: Stated | None = None
) -> Foreign:
    """The autoencoder that another library or a paper's code wrote. A pickle is converted by a
    process of its own.

    Args:
        source: a directory, or a file of tensors.
        format: one of `FORMATS` or `RESEARCH`; None: recognised by the files.
        stated: what the files do not say.

    Raises:
        UserError: an unknown format, or files that hold nothing that can be represented.
    """
    source, stated = Path(source), stated or Stated()
    if format is not None and format not in {*FORMATS, *RESEARCH}:
        raise unknown("format", format, [*FORMATS, *RESEARCH])
    format = format or detect(source)
    if format is not None and format in FORMATS:
        folded = FORMATS[format].read(source)
        return Foreign(
            sae=unfold(folded.of_unscaled(stated.scale)),
            format=format,
            belongs=said_by_metadata(read_config(source)),
            files=content_hashes(source, format=format),
        )
    with opened(source) as checkpoint:
        format = format or _recognised(checkpoint)
        folded = RESEARCH[format].read(checkpoint, stated)
        return Foreign(
            sae=unfold(folded.of_unscaled(stated.scale)),
            format=format,
            belongs=RESEARCH[format].belongs(checkpoint),
            files={path.name: sha256_of(path) for path in checkpoint.files},
            depends_on_time=format == "diffract",
        )


def said_by_metadata(config: Mapping[str, Any]) -> Belongs:
    """What an export of ours says in its `cfg.json`; nothing in another's."""
    given = config.get("metadata")
    said: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    texts = {
        name: value
        for name in ("model", "hookpoint", "conditioning")
        if isinstance(value := said.get(name), str)
    }
    if len(texts) < 3 or not is_number(t := said.get("t")):
        return Belongs()
    found = Belongs.at(texts.pop("hookpoint"), t=t, **texts)
    quantity = said.get("quantity")  # which exports of earlier versions do not say
    return replace(found, quantity=quantity if isinstance(quantity, str) else None)


def detect(source: Path | str) -> str | None:
    """The name of the format that the names of the files tell; None: their tensors tell it.

    Raises:
        UserError: there is nothing, or an SAE of diffusae's own format.
    """
    source = Path(source)
    if source.is_file():
        return None
    if not source.is_dir():
        raise UserError(f"{source} is no directory and no file; name a foreign SAE: source=DIR")
    if (source / sae_lens_format.WEIGHTS_NAME).is_file():
        return "sae_lens"
    if (source / sparsify_format.WEIGHTS_NAME).is_file():
        config = read_config(source)
        if "format_version" in config:
            raise UserError(
                f"{source} holds an SAE in diffusae's own format {storage.FORMAT_VERSION}, not a"
                " foreign one; use it where it lies, by its experiment's name"
            )
        return "saeuron" if config.keys() & set(saeuron_format.MARKS) else "eai_sparsify"
    if any(path.suffix in (*PICKLES, ".safetensors") for path in source.iterdir()):
        return None
    known = " or ".join(f"{format.weights} ({name})" for name, format in FORMATS.items())
    names = ", ".join(sorted(path.name for path in source.iterdir())[:8]) or "nothing"
    raise UserError(
        f"{source} must hold {known}, or the file of tensors of a research checkpoint, holds"
        f" {names}; name the directory of one SAE"
    )


def _recognised(checkpoint: Checkpoint) -> str:
    """The name of the format whose tensors these are."""
    names = checkpoint.header.shapes.keys()
    for format, known in RESEARCH.items():
        if known.tensors <= names and known.marked(checkpoint):
            return format
    raise UserError(
        f"{checkpoint.path} holds {', '.join(sorted(names))[:400] or 'nothing'}, which is none of"
        f" {', '.join(RESEARCH)}; choose another SAE"
    )


def content_hashes(directory: Path | str, *, format: str) -> dict[str, str]:
    """SHA-256 of the two files that decide an import."""
    names = (CONFIG_NAME, _known(format).weights)
    return {name: sha256_of(Path(directory) / name) for name in names}


def _known(format: str) -> Format:
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    return FORMATS[format]
