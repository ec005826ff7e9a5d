"""The top pictures of every latent, as the dictionaries list them: read a cell at a time."""

from __future__ import annotations

from math import isfinite
from typing import Any

import pyarrow.parquet as pq

from diffusae.explorer.catalogue import CatalogueCell
from diffusae.explorer.kept import Kept
from diffusae.files import verified
from diffusae.parsing import of_type, reading

MOST_KEPT = 64 << 20
"""Bytes of tables in memory. A cell of 5120 latents has about 2 MB."""
_COLUMNS = ["top_images", "top_values"]


class TopPictures:
    """The pictures of the split dictionary in which a latent is strongest."""

    def __init__(self) -> None:
        self._tables: Kept[Any] = Kept(MOST_KEPT, lambda table: table.nbytes)

    def of(self, cell: CatalogueCell, latent: int) -> list[tuple[str, float]]:
        """(image id, mean of the latent's map) of its top pictures, the strongest first; empty
        where the cell has no dictionary.

        Raises:
            UserError: the dictionary is damaged.
        """
        if cell.missing:
            return []
        table = self._tables.get(cell.name, lambda: _read(cell))
        with reading(cell.cell.concepts_directory, remedy="label this cell again"):
            images, values = (table[name][latent].as_py() for name in _COLUMNS)
            pairs = zip(of_type(images, list[str], "top_images"), values, strict=True)
            return [(image_id, float(value)) for image_id, value in pairs if isfinite(value)]


def _read(cell: CatalogueCell) -> Any:
    path = verified(cell.cell.concepts_directory / "latents.parquet")
    with reading(path, remedy="label this cell again"), open(path, "rb") as file:
        return pq.read_table(file, columns=_COLUMNS)
