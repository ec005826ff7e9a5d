"""Searching the catalogue: what a reader asks, and the rows that answer it, in order.

`static/find.js` does the same in the browser for an exported study. What changes here changes
there; a browser test compares the two.

A search text is made of words, numbers and conditions, separated by blanks:

- "fish" or "traffic light": a label, also in the plural. What is no label is looked for within
  labels ("light" finds "traffic light"), and else answered with the labels nearest to it by word
  embedding ("animal" finds fish and cat).
- "373": the latent of this index in every cell.
- "iou>0.6": a condition on a statistic (`STATISTICS`), with <, <=, >, >= or =.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from diffusae.concepts.words import normal_words
from diffusae.errors import UserError, together, unknown
from diffusae.explorer.catalogue import OF_LABEL, STATISTICS, Catalogue

PAGE = 50
"""Rows of a page."""
LONGEST = 200
"""Characters of a search text."""
DEAD = ("yes", "no")
SORTS = ("cell", "latent", "label", *STATISTICS, "similarity")
"""What rows are sorted by; with "-" before it, from high to low."""

_CONDITION = re.compile(r"([a-z]+)(<=|>=|<|>|=)(-?\d+(?:\.\d+)?(?:e-?\d+)?)")
_COMPARED = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq,
}  # fmt: skip

Near = Callable[[str], Mapping[str, float]]
"""{label: cosine} of the labels nearest to a word; `UserError` where that cannot be said."""


class Condition(NamedTuple):
    """A statistic, how it is compared, and with what."""

    statistic: str
    sign: str
    value: float


@dataclass(frozen=True)
class Query:
    """What is asked. An empty text asks nothing.

    Attributes:
        q: the search text.
        cell: the name of a cell. block, t, branch, tag: of a cell; t as text with two decimals.
        label: a label, exactly.
        dead: "yes" or "no".
        sort: one of `SORTS`, with "-" before it from high to low; "": the best answer first.
        page: counted from 1.

    Raises:
        UserError: a search text that is too long, an unknown statistic, sort or value of `dead`, a
            page below 1; all together.
    """

    q: str = ""
    cell: str = ""
    block: str = ""
    t: str = ""
    branch: str = ""
    tag: str = ""
    label: str = ""
    dead: str = ""
    sort: str = ""
    page: int = 1

    def __post_init__(self) -> None:
        faults = []
        if len(self.q) > LONGEST:
            faults.append(f"the search has {len(self.q)} characters; ask with at most {LONGEST}")
        faults += [
            str(unknown("statistic", condition.statistic, STATISTICS))
            for condition in self.conditions
            if condition.statistic not in STATISTICS
        ]
        if self.sort and self.sort.removeprefix("-") not in SORTS:
            faults.append(str(unknown("sort", self.sort, SORTS)))
        if self.dead and self.dead not in DEAD:
            faults.append(str(unknown("value of dead", self.dead, DEAD)))
        if self.page < 1:
            faults.append(f"page={self.page} must be 1 or more")
        together(faults)

    @classmethod
    def of(cls, parameters: Mapping[str, str]) -> Query:
        """The query of an address. Parameters of other names are left out.

        Raises:
            UserError: `page` is no number, or as above.
        """
        known = {name: value.strip() for name, value in parameters.items() if name in _FIELDS}
        page = known.pop("page", "") or "1"
        if not re.fullmatch(r"[0-9]{1,9}", page):
            raise UserError(f"page={page[:40]!r} must be a number from 1")
        return cls(**known, page=int(page))

    @property
    def parts(self) -> list[str]:
        """The search text at its blanks."""
        return self.q.split()

    @property
    def conditions(self) -> list[Condition]:
        """The conditions in the search text."""
        matches = [_CONDITION.fullmatch(part.lower()) for part in self.parts]
        return [Condition(m[1], m[2], float(m[3])) for m in matches if m]

    @property
    def numbers(self) -> list[int]:
        """The latents' indices in the search text."""
        return [int(part) for part in self.parts if re.fullmatch(r"[0-9]{1,9}", part)]

    @property
    def words(self) -> str:
        """The words in the search text."""
        return " ".join(
            part
            for part in self.parts
            if not _CONDITION.fullmatch(part.lower()) and not re.fullmatch(r"[0-9]{1,9}", part)
        )

    def but(self, **changes: Any) -> dict[str, str]:
        """The parameters of this query with changes, for an address. A change of anything but the
        page leads to the first page.
        """
        changed = replace(self, **{"page": 1, **changes})
        values = {name: str(value) for name, value in asdict(changed).items() if value}
        return {name: value for name, value in values.items() if (name, value) != ("page", "1")}


_FIELDS = Query.__dataclass_fields__


@dataclass(frozen=True)
class Found:
    """The answer.

    Attributes:
        rows: rows of the catalogue, in order.
        entries: the entry of the label that each row stands for; -1: it has no label.
        labels: the labels that the words mean, with their cosines to them: 1 for the label itself;
            empty without words.
        exact: whether the words are a label, or within labels; True without words.
        note: why words found nothing; "" otherwise.
    """

    rows: Int[np.ndarray, " found"]
    entries: Int[np.ndarray, " found"]
    labels: Mapping[str, float]
    exact: bool = True
    note: str = ""

    def page(self, number: int) -> Found:
        """One page of it, counted from 1."""
        return self._cut(slice((number - 1) * PAGE, number * PAGE))

    def first(self, count: int) -> Found:
        """Its first rows."""
        return self._cut(slice(count))

    def _cut(self, shown: slice) -> Found:
        return replace(self, rows=self.rows[shown], entries=self.entries[shown])

    @property
    def pages(self) -> int:
        """How many pages there are, at least 1."""
        return max(1, -(-len(self.rows) // PAGE))


def find(catalogue: Catalogue, query: Query, near: Near) -> Found:
    """The rows that a query asks for.

    Without `sort` they stand by how near their label is to the words, then by count x share: how
    often and how purely a latent stands for its label. Rows that are equal stand in the
    catalogue's order, and rows without the sorted value stand last.
    """
    labels, exact, note = meant(catalogue, query.words, near) if query.words else ({}, True, "")
    entries, kept = catalogue.main, _kept(catalogue, query)
    for asked, wanted in ((query.words, labels), (query.label, {query.label: 1.0})):
        if asked:
            entries = _entries(catalogue, wanted)
            kept &= entries >= 0
    for condition in query.conditions:
        values = values_of(catalogue, condition.statistic, entries)
        kept &= _COMPARED[condition.sign](values, condition.value)
    rows = np.flatnonzero(kept)
    rows = rows[_order(catalogue, query.sort, rows, entries[rows], labels)]
    return Found(rows, entries[rows], labels, exact, note)


def meant(catalogue: Catalogue, words: str, near: Near) -> tuple[Mapping[str, float], bool, str]:
    """The labels that words mean with their cosines, whether the words are in them, and else why
    there are none.
    """
    vocabulary = catalogue.vocabulary
    if vocabulary is None:
        return {}, True, "no cell is labelled: run `diffusae label`, or `diffusae run`"
    if (label := vocabulary.label_of(words)) is not None:
        return {label: 1.0}, True, ""
    wanted = set(normal_words(words))
    if within := [one for one in catalogue.labels if wanted and wanted <= set(normal_words(one))]:
        return dict.fromkeys(within, 1.0), True, ""
    try:
        return near(words), False, ""
    except UserError as error:
        return {}, False, f"no label has these words, and no nearest label can be said: {error}"


def values_of(
    catalogue: Catalogue, statistic: str, entries: Int[np.ndarray, " rows"]
) -> Float[np.ndarray, " rows"]:
    """A statistic of every row, NaN where it has none; those of a label by the rows' entries."""
    if statistic not in OF_LABEL:
        return catalogue.statistics[statistic]
    of = {
        "count": catalogue.entry_counts,
        "iou": catalogue.entry_ious,
        "share": catalogue.entry_shares,
    }[statistic]
    return np.where(entries >= 0, np.append(of, 0)[entries], np.nan)


def _kept(catalogue: Catalogue, query: Query) -> Bool[np.ndarray, " rows"]:
    """The rows of the wanted cells and latents, dead or alive as asked."""
    wanted = [
        all(
            not asked or asked == has
            for asked, has in (
                (query.cell, cell.name),
                (query.block, cell.cell.block),
                (query.t, f"{cell.cell.t:.2f}"),
                (query.branch, cell.cell.conditioning),
                (query.tag, cell.tag),
            )
        )
        for cell in catalogue.cells
    ]
    kept = np.array(wanted, dtype=bool)[catalogue.cell_numbers]
    if query.numbers:
        kept &= np.isin(catalogue.latents, query.numbers)
    if query.dead:
        frequency = catalogue.statistics["frequency"]
        kept &= frequency == 0 if query.dead == "yes" else frequency > 0
    return kept


def _entries(catalogue: Catalogue, labels: Mapping[str, float]) -> Int[np.ndarray, " rows"]:
    """The entry of every row by which it answers: of its nearest label, then the most frequent."""
    near = np.array([labels.get(label, -np.inf) for label in catalogue.labels])
    entries = np.full(len(catalogue), -1, dtype=np.int64)
    if not len(near):
        return entries
    cosines = near[catalogue.entry_labels]
    answers = np.flatnonzero(cosines > -np.inf)
    # The last one written stays: the best of a row comes last.
    order = answers[np.lexsort((-answers, cosines[answers]))]
    entries[catalogue.entry_rows[order]] = order
    return entries


def _order(
    catalogue: Catalogue,
    sort: str,
    rows: Int[np.ndarray, " found"],
    entries: Int[np.ndarray, " found"],
    labels: Mapping[str, float],
) -> Int[np.ndarray, " found"]:
    """The order of these rows."""
    named = np.append(catalogue.entry_labels, -1)[entries]
    cosines = np.array([labels.get(label, 0.0) for label in catalogue.labels] + [0.0])[named]
    name, falling = sort.removeprefix("-"), sort.startswith("-")
    if name in ("", "similarity"):
        telling = np.append(catalogue.entry_counts, 0) * np.append(catalogue.entry_shares, 0.0)
        rank = cosines if sort == "similarity" else -cosines
        return np.lexsort((rows, -telling[entries], rank))
    if name == "cell":
        # Within a cell the latents ascend either way.
        number = catalogue.cell_numbers[rows].astype(np.int64)
        return np.lexsort((rows, -number if falling else number))
    if name == "latent":
        keys = catalogue.latents[rows].astype(np.float64)
    elif name == "label":
        keys = np.where(named >= 0, named.astype(np.float64), np.nan)
    else:
        every = np.full(len(catalogue), -1, dtype=np.int64)
        every[rows] = entries
        keys = values_of(catalogue, name, every)[rows]
    return np.argsort(-keys if falling else keys, kind="stable")
