"""Whether a foreign autoencoder belongs to a study's cell."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusae.activations.manifest import MANIFEST, Manifest
from diffusae.activations.schema import Stream
from diffusae.backbone.hookpoints import find
from diffusae.backbone.settings import ModelSettings
from diffusae.errors import UserError
from diffusae.sae.belongs import Belongs, differences, names_of
from diffusae.sources import is_hub_id
from diffusae.study.model import describe_model
from diffusae.study.settings import PictureCollection
from diffusae.study.streams import stream_of
from diffusae.study.study import Study

log = logging.getLogger(__name__)


def cell_hookpoint(study: Study) -> str:
    """The hookpoint of the study's cell as its collection records it; before a collection, as the
    model's configuration names it. Of a text encoder it is then the layer's name.
    """
    if stream := _stream(study):
        return stream.hookpoint
    if study.kind == "text":
        return study.cell.block
    model = ModelSettings.of(study.cfg)
    wanted = study.hookpoints.get(study.cell.block)
    if wanted is None:
        raise UserError(f"model {model.name} names no hookpoint for the block {study.cell.block}")
    if isinstance(wanted, str):
        return wanted
    return find(describe_model(model).hookpoints, wanted).name


def cell_belongs(study: Study) -> Belongs:
    """What the study's cell records: its model, hookpoint, quantity, moment and branch. The
    scheduler's timestep is known once there is a collection.
    """
    model, stream = ModelSettings.of(study.cfg), _stream(study)
    text = study.kind == "text"
    return Belongs.at(
        cell_hookpoint(study),
        quantity="output" if text else _quantity(study),
        model=model.source if is_hub_id(model.source) else model.name,
        t=study.cell.t,
        timestep=stream.timestep if stream and not text else None,
        conditioning=study.cell.conditioning,
    )


def with_quantity(study: Study, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of the study's SAE with the quantity that its cell records."""
    return {"quantity": cell_belongs(study).quantity, **metadata}


def require_belongs(study: Study, theirs: Belongs, *, ours: Belongs, of: str) -> None:
    """Refuse a foreign SAE (`of`) that was trained on something else than the cell; warn of what
    nobody says.
    """
    model = ModelSettings.of(study.cfg)
    names = names_of(model.source) | {
        name.lower() for name in (model.name, model.architecture) if name
    }
    if differing := list(differences(theirs, ours, names=names)):
        raise UserError(
            f"{of} was trained on something else than this cell (there -> here):"
            f" {', '.join(differing)}; choose the cell that it was trained on, mend what its files"
            " say by stated.NAME=VALUE, or take it all the same with another_cell=true"
        )
    if unknown := theirs.unknown():
        log.warning(
            "%s does not say its %s: taken for the cell's (stated.NAME=VALUE says it)",
            of,
            ", ".join(unknown),
        )


def _stream(study: Study) -> Stream | None:
    """The cell's recorded stream; None before a collection."""
    if not (Path(study.cfg.paths.activations).expanduser() / MANIFEST).is_file():
        return None
    return stream_of(study, Manifest.load(study.activations))


def _quantity(study: Study) -> str | None:
    """What is recorded of given pictures; None: what the hookpoint's name says."""
    if study.kind != "pictures" or not (settings := PictureCollection.of(study.cfg)).pooled:
        return None
    return f"pooled_{settings.record}"
