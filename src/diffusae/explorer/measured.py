"""What evaluations measured when pictures were edited with the latents of a concept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffusae.errors import UserError
from diffusae.evaluation.proportion import share
from diffusae.evaluation.result import Estimate
from diffusae.explorer.catalogue import CatalogueCell
from diffusae.files import verified
from diffusae.runs.record import warn_once
from diffusae.table_files import Kind, read_table

METHOD = "dictionary_concepts"
"""The method that edits with all latents that have the label."""
NO_EDIT = "no_edit"
_COLUMNS: dict[str, Kind] = {
    "split": "text", "image_id": "text", "region": "text", "method": "text",
    "strength": "number", "noun": "text", "success": "any",
}  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """Objects moved to a region by the latents of a label.

    Attributes:
        label: the concept; the latent is one of its latents.
        strength: of the edit.
        success: share of test pictures where the object was in the region afterwards.
        no_edit: the same without an edit.
        path: the file behind it, from the study's directory.
    """

    label: str
    strength: float
    success: Estimate
    no_edit: Estimate
    path: str


def measured_effects(cell: CatalogueCell, labels: Sequence[str]) -> list[Measured]:
    """What the spatial evaluation measured at a cell for these labels; empty where it did not."""
    path = cell.cell.evaluation("spatial") / "objects.parquet"
    try:
        table: Any = read_table(verified(path), _COLUMNS, remedy="evaluate this cell again")
    except FileNotFoundError:
        return []
    except UserError as error:
        warn_once(str(error))
        return []
    test = table[table["split"] == "test"]
    shown = str(path.relative_to(cell.cell.study.directory))
    made = []
    for label in labels:
        own = test[(test["noun"] == label) & (test["method"] == METHOD)]
        without = _share(test[(test["noun"] == label) & (test["method"] == NO_EDIT)])
        made += [
            Measured(label, float(strength), _share(rows), without, shown)
            for strength, rows in own.groupby("strength")
        ]
    return made


def _share(rows: Any) -> Estimate:
    return share(rows["success"].astype(bool).tolist(), rows["image_id"].tolist())
