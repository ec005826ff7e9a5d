"""The catalogue: all latents of all cells of a study, a row a latent and an array a statistic.

It is read once, from dictionaries and evaluations, and stays in memory: some 100 bytes a latent and
20 bytes a label of a latent. What lists pictures is not in it.

Numbers are rounded to four significant digits. Written as JSON they are the same numbers, so that a
browser that searches an exported study orders and compares them as the server does.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, NDArray

from diffusae.concepts.dictionary import ConceptDictionary
from diffusae.concepts.words import Vocabulary, normal_words
from diffusae.errors import UserError, unknown
from diffusae.exploring.cells import OpenCell, not_yet
from diffusae.exploring.concept_table import LabelVectors
from diffusae.files import verified
from diffusae.report.tables import cell_order
from diffusae.sae.storage import sizes_of
from diffusae.table_files import Kind, read_table

log = logging.getLogger(__name__)

STATISTICS: Mapping[str, str] = {
    "count": "pictures in which the latent gained its label",
    "iou": "mean IoU of its map with the label's mask over these pictures",
    "share": "share of the label in all that the latent gained",
    "frequency": "share of pictures in which it is active",
    "density": "share of positions at which it is active, over all pictures",
    "mean": "mean activation over all positions and pictures, in data units",
    "cohesion": "mean cosine of its labels with their mean, where it was evaluated",
    "stability": "cosine with its match in another seed's autoencoder, where it was evaluated",
}
"""The statistics of a latent, in the order of the columns: what each one means."""

OF_LABEL = ("count", "iou", "share")
"""Statistics that belong to a latent and a label together."""


@dataclass(frozen=True)
class CatalogueCell:
    """One cell in the catalogue.

    Attributes:
        cell: the cell itself.
        first, size: its rows are `first` to `first + size - 1`, in the order of its latents.
        d_in: entries of its updates.
        missing: why it has no labels and statistics, with the remedy; "" where it has them.
    """

    cell: OpenCell
    first: int
    size: int
    d_in: int
    missing: str = ""

    @property
    def name(self) -> str:
        """Such as "down-t1.00-cond-k10"."""
        return self.cell.name

    @property
    def tag(self) -> str:
        """The tag of its autoencoder, such as "k10"."""
        return self.cell.tag

    @property
    def rows(self) -> slice:
        """Its rows."""
        return slice(self.first, self.first + self.size)


@dataclass(frozen=True)
class Catalogue:
    """All latents of all cells.

    Attributes:
        cells: by block, t from 1 to 0, branch, tag.
        latents: the index of every row's latent in its autoencoder.
        statistics: name -> a value a row, NaN where it is not known; without those of `OF_LABEL`.
        active_pictures: pictures of the dictionary in which the latent is active; 0 where it is not
            known.
        labels: all labels, sorted.
        entry_rows, entry_labels, entry_counts, entry_ious: one entry a (row, label), by row and
            then by falling count: the row, the label's place in `labels`, pictures, mean IoU.
        vectors: the labels' vectors, as the dictionaries hold them.
    """

    cells: Sequence[CatalogueCell]
    latents: Int[np.ndarray, " rows"]
    statistics: Mapping[str, Float[np.ndarray, " rows"]]
    active_pictures: Int[np.ndarray, " rows"]
    labels: list[str]
    entry_rows: Int[np.ndarray, " entries"]
    entry_labels: Int[np.ndarray, " entries"]
    entry_counts: Int[np.ndarray, " entries"]
    entry_ious: Float[np.ndarray, " entries"]
    vectors: Sequence[LabelVectors]

    @classmethod
    def of(cls, cells: Sequence[OpenCell]) -> Catalogue:
        """Read the catalogue of these cells. A cell whose dictionary is missing or damaged has
        rows without labels and statistics, and says why.
        """
        ordered = sorted(cells, key=lambda c: (*cell_order(c.block, c.t, c.conditioning), c.name))
        read = [_read(cell) for cell in ordered]
        starts = np.cumsum([0, *(part.size for part in read)])
        words = sorted({label for part in read for label in part.labels})
        place = {label: number for number, label in enumerate(words)}
        numbers = [np.array([place[word] for word in p.labels], dtype=np.int32) for p in read]
        return cls(
            cells=[
                CatalogueCell(cell, int(start), part.size, part.d_in, part.missing)
                for cell, start, part in zip(ordered, starts, read, strict=False)
            ],
            latents=_joined([np.arange(part.size, dtype=np.int32) for part in read], np.int32),
            statistics={
                name: _joined([part.statistics[name] for part in read], np.float64)
                for name in STATISTICS
                if name not in OF_LABEL
            },
            active_pictures=_joined([part.active for part in read], np.int32),
            labels=words,
            entry_rows=_joined(
                [part.rows + start for part, start in zip(read, starts, strict=False)], np.int32
            ),
            entry_labels=_joined(
                [of[part.which] for part, of in zip(read, numbers, strict=True)], np.int32
            ),
            entry_counts=_joined([part.counts for part in read], np.int32),
            entry_ious=_joined([part.ious for part in read], np.float64),
            vectors=_distinct([part.vectors for part in read if part.vectors is not None]),
        )

    def __len__(self) -> int:
        return len(self.latents)

    def cell(self, name: str) -> CatalogueCell:
        """The cell of a name.

        Raises:
            UserError: there is none; the cells are listed.
        """
        if name not in self._by_name:
            raise unknown("cell", name, self._by_name)
        return self._by_name[name]

    def row_of(self, name: str, latent: int) -> int:
        """The row of a latent of a cell.

        Raises:
            UserError: there is no such cell, or it has no such latent.
        """
        cell = self.cell(name)
        if not 0 <= latent < cell.size:
            raise UserError(
                f"latent {latent} does not exist in {name}; its autoencoder has latents 0 to"
                f" {cell.size - 1}"
            )
        return cell.first + latent

    def cell_of(self, row: int) -> CatalogueCell:
        """The cell of a row."""
        return self.cells[int(self.cell_numbers[row])]

    @cached_property
    def _by_name(self) -> dict[str, CatalogueCell]:
        return {cell.name: cell for cell in self.cells}

    @cached_property
    def cell_numbers(self) -> Int[np.ndarray, " rows"]:
        """The place of every row's cell in `cells`."""
        sizes = [cell.size for cell in self.cells]
        return np.repeat(np.arange(len(sizes), dtype=np.int16), sizes)

    @cached_property
    def starts(self) -> Int[np.ndarray, " rows_and_one"]:
        """The entries of row r are `starts[r]` to `starts[r + 1] - 1`."""
        return np.searchsorted(self.entry_rows, np.arange(len(self) + 1)).astype(np.int64)

    @cached_property
    def totals(self) -> Int[np.ndarray, " rows"]:
        """How often every row's latent gained any label."""
        return np.bincount(self.entry_rows, self.entry_counts, len(self)).astype(np.int64)

    @cached_property
    def entry_shares(self) -> Float[np.ndarray, " entries"]:
        """The share of an entry's label in all that its latent gained."""
        return rounded(self.entry_counts / self.totals[self.entry_rows])

    @cached_property
    def main(self) -> Int[np.ndarray, " rows"]:
        """The entry of every row's most frequent label; -1 where it has none."""
        has = self.starts[:-1] < self.starts[1:]
        return np.where(has, self.starts[:-1], -1)

    @cached_property
    def dead(self) -> NDArray[np.bool_]:
        """Whether the latent is active in no picture of the dictionary."""
        return self.statistics["frequency"] == 0

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        """The labels with their plurals; None where nothing is labelled. Of labels with the same
        words, such as "fish" and "Fish", the first one stands for both; labels without a word are
        left out.
        """
        named = {tuple(normal_words(label)): label for label in reversed(self.labels)}
        labels = [label for words, label in named.items() if words]
        return Vocabulary(sorted(labels)) if labels else None

    def labels_of(self, row: int) -> list[tuple[str, int, float, float]]:
        """(label, count, mean IoU, share) of every label of a row, the most frequent first."""
        entries = range(int(self.starts[row]), int(self.starts[row + 1]))
        return [
            (
                self.labels[self.entry_labels[e]],
                int(self.entry_counts[e]),
                float(self.entry_ious[e]),
                float(self.entry_shares[e]),
            )
            for e in entries
        ]


def _no_entries() -> Int[np.ndarray, " entries"]:
    return np.empty(0, np.int32)


@dataclass(frozen=True)
class _Part:
    """What one cell gives. `rows` are counted within the cell; `which` are places in `labels`."""

    d_in: int
    size: int
    missing: str
    statistics: Mapping[str, Float[np.ndarray, " rows"]]
    active: Int[np.ndarray, " rows"]
    labels: Sequence[str] = ()
    rows: Int[np.ndarray, " entries"] = field(default_factory=_no_entries)
    which: Int[np.ndarray, " entries"] = field(default_factory=_no_entries)
    counts: Int[np.ndarray, " entries"] = field(default_factory=_no_entries)
    ious: Float[np.ndarray, " entries"] = field(default_factory=lambda: np.empty(0))
    vectors: LabelVectors | None = None


def _read(cell: OpenCell) -> _Part:
    """The rows of a cell; without its dictionary they are empty."""
    assert cell.sae_directory is not None  # of `trained_cells`
    d_in, size = sizes_of(cell.sae_directory)
    statistics = {name: np.full(size, np.nan) for name in STATISTICS if name not in OF_LABEL}
    active = np.zeros(size, np.int32)
    try:
        if not cell.labelled:
            raise not_yet(cell.settings, "label")
        dictionary = ConceptDictionary.load(cell.concepts_directory, top_pictures=False)
    except UserError as error:
        log.info("%s has no labels: %s", cell.name, error)
        return _Part(d_in, size, str(error), statistics, active)
    table: Any = dictionary.latents
    if len(table) != size:
        reason = f"the dictionary of {cell.name} has {len(table)} latents, its autoencoder {size}"
        return _Part(
            d_in, size, f"{reason}; remove it and label this cell again", statistics, active
        )
    statistics["density"] = rounded(table["firing_frequency"])
    statistics["mean"] = rounded(table["mean_activation"])
    if "pictures_active" in table and (n := dictionary.facts.get("n_pictures")):
        active = table["pictures_active"].to_numpy(np.int32)
        statistics["frequency"] = rounded(active / n)
    for name, path in {
        "cohesion": cell.evaluation("cohesion") / "concepts.parquet",
        "stability": cell.evaluation("latents") / "latents.parquet",
    }.items():
        _fill(statistics[name], path, name)
    entries: Any = dictionary.table
    which, labels = pd.factorize(entries["label"], sort=True)
    return _Part(
        d_in,
        size,
        "",
        statistics,
        active,
        labels.tolist(),
        entries["latent"].to_numpy(np.int32),
        which,
        entries["count"].to_numpy(np.int32),
        rounded(entries["mean_iou"]),
        LabelVectors.of(cell.name, dictionary),
    )


def _fill(values: Float[np.ndarray, " rows"], path: Path, name: str) -> None:
    """Put a column of an evaluation's table into `values`, by its latents. A table that is missing
    or damaged is no data.
    """
    kinds: dict[str, Kind] = {"latent": "number", name: "number"}
    try:
        table: Any = read_table(
            verified(path), kinds, remedy="evaluate again", without=("top_images", "top_values")
        )
    except FileNotFoundError:
        return
    except UserError as error:
        log.warning("left out: %s", error)
        return
    latents = table["latent"].to_numpy(np.int64)
    inside = (latents >= 0) & (latents < len(values))
    values[latents[inside]] = rounded(table[name])[inside]


def _joined(parts: Sequence[np.ndarray], kind: type[np.generic]) -> np.ndarray:
    return np.concatenate(parts).astype(kind) if parts else np.empty(0, kind)


def _distinct(vectors: Sequence[LabelVectors]) -> list[LabelVectors]:
    """The labels' vectors without those that an earlier cell has in the same embedding."""
    kept: list[LabelVectors] = []
    seen: set[tuple[str | None, str]] = set()
    for one in vectors:
        new = [n for n, label in enumerate(one.labels) if (one.embedding, label) not in seen]
        seen |= {(one.embedding, one.labels[n]) for n in new}
        if new:
            chosen = one.vectors[torch.tensor(new)].clone()
            kept.append(LabelVectors(one.cell, one.embedding, [one.labels[n] for n in new], chosen))
    return kept


def rounded(values: ArrayLike) -> Float[np.ndarray, " n"]:
    """Values with four significant digits, or as whole numbers from 1000 on.

    Example: 0.123456 becomes 0.1235, and 0.000123456 becomes 0.0001235.
    """
    values = np.asarray(values, dtype=np.float64)
    with np.errstate(divide="ignore"):
        places = 3 - np.floor(np.log10(np.abs(values)))
    scale = np.power(10.0, np.clip(np.nan_to_num(places, posinf=0), 0, 22))
    return np.round(values * scale) / scale
