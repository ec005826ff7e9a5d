"""Two cells side by side: their figures, labels and directions. They may be of two studies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from diffusae.concepts.dictionary import ConceptDictionary
from diffusae.evaluation.differences import difference
from diffusae.evaluation.result import Estimate, Result
from diffusae.evaluation.stability import nearest_directions
from diffusae.explorer.explored import Explored
from diffusae.exploring.cells import OpenCell

MOST = 60
"""Partners that the page lists."""


@dataclass(frozen=True)
class Side:
    """One of the two: a cell of an explored study.

    Attributes:
        address: of the cell in the compare page: its name, with "@STUDY" where it is of another
            study than the one that is explored.
        own: whether it is of the study that is explored, so that its pages can be opened.
    """

    address: str
    cell: OpenCell
    explored: Explored
    own: bool

    @property
    def results(self) -> Iterator[Result]:
        """The rows of all its finished evaluations."""
        source, name = self.explored.source, self.cell.name
        for directory, record in source.records:
            if record.stage == "evaluate" and directory.name == name:
                yield from source.rows(directory)

    def directions(self) -> torch.Tensor:
        """The directions of its latents, [d_sae, d_in]."""
        return self.explored.directions.of(self.explored.catalogue.cell(self.cell.name))

    def dictionary(self) -> ConceptDictionary | None:
        """Its labels; None where it is not labelled. It is read anew, so that many comparisons do
        not fill the memory.
        """
        if not self.cell.labelled:
            return None
        return ConceptDictionary.load(self.cell.settings.concepts)


@dataclass(frozen=True)
class Figure:
    """One metric of both sides. `unit` and direction are those of the first that has it."""

    metric: str
    unit: str
    higher_is_better: bool
    rows: tuple[Result | None, Result | None]

    @property
    def difference(self) -> Estimate:
        """The first minus the second, with its interval."""
        first, second = (Estimate(None) if row is None else row.estimate for row in self.rows)
        return difference(first, second)

    @property
    def better(self) -> int | None:
        """Which side is better with the whole interval of the difference, 0 or 1; None: neither."""
        ends = self.difference.ci95
        if ends is None or ends[0] <= 0 <= ends[1]:
            return None
        return int((ends[0] > 0) != self.higher_is_better)


def figures_of(first: Side, second: Side) -> list[Figure]:
    """Every figure that one of them has at least. Of several rows of one name the first of one
    side stands beside the first of the other.
    """
    sides = [_numbered(side.results) for side in (first, second)]
    figures = []
    for key in dict.fromkeys([*sides[0], *sides[1]]):
        rows = sides[0].get(key), sides[1].get(key)
        about = rows[0] or rows[1]
        assert about is not None
        figures.append(Figure(about.metric, about.unit, about.higher_is_better, rows))
    return figures


def _numbered(results: Iterator[Result]) -> dict[tuple[str, int], Result]:
    numbered: dict[tuple[str, int], Result] = {}
    for row in results:
        place = sum(metric == row.metric for metric, _ in numbered)
        numbered[row.metric, place] = row
    return numbered


@dataclass(frozen=True)
class SharedLabel:
    """One label: the latents of either side that have it, the most frequent first."""

    label: str
    latents: tuple[Sequence[int], Sequence[int]]

    @property
    def sides(self) -> tuple[int, ...]:
        """Which sides have it."""
        return tuple(side for side in (0, 1) if self.latents[side])


def labels_of(dictionaries: Sequence[ConceptDictionary | None]) -> list[SharedLabel]:
    """All labels of both, sorted; a side without a dictionary has none."""
    sides = [_by_label(dictionary) for dictionary in dictionaries]
    return [
        SharedLabel(label, (sides[0].get(label, ()), sides[1].get(label, ())))
        for label in sorted({*sides[0], *sides[1]})
    ]


def _by_label(dictionary: ConceptDictionary | None) -> Mapping[str, Sequence[int]]:
    if dictionary is None:
        return {}
    table = dictionary.table.sort_values(["count", "latent"], ascending=[False, True])
    return {str(label): rows["latent"].tolist() for label, rows in table.groupby("label")}


def label_groups(
    labels: Sequence[SharedLabel],
) -> list[tuple[str, tuple[int, ...], list[SharedLabel]]]:
    """The labels that only one of them has, and those of both: a title, the sides, the labels."""
    groups = {"Only the first has": (0,), "Only the second has": (1,), "Both have": (0, 1)}
    return [
        (title, sides, [one for one in labels if one.sides == sides])
        for title, sides in groups.items()
    ]


@dataclass(frozen=True)
class Partner:
    """A latent of the first cell with the latent of the second whose direction is nearest."""

    latent: int
    partner: int
    cosine: float
    labels: tuple[Sequence[str], Sequence[str]]


def partners_of(
    first: Side, second: Side, dictionaries: Sequence[ConceptDictionary | None]
) -> tuple[list[Partner], list[float]]:
    """The partners of the first cell's latents, the largest cosine first, and all cosines.

    Labelled latents come before others, and `MOST` are listed.

    Raises:
        UserError: the decoders have vectors of different lengths, or a file is damaged.
    """
    cosines, which = nearest_directions(first.directions(), second.directions())
    names = [_labels(dictionary) for dictionary in dictionaries]
    order = sorted(range(len(cosines)), key=lambda i: (i not in names[0], -float(cosines[i])))
    partners = []
    for latent in order[:MOST]:
        partner = int(which[latent])
        labels = names[0].get(latent, ()), names[1].get(partner, ())
        partners.append(Partner(latent, partner, float(cosines[latent]), labels))
    return partners, cosines.tolist()


def _labels(dictionary: ConceptDictionary | None) -> dict[int, list[str]]:
    if dictionary is None:
        return {}
    return {
        int(latent): rows["label"].tolist()  # type: ignore[call-overload] - a whole number
        for latent, rows in dictionary.table.groupby("latent")
    }
