"""The effects of interventions in each window of generation, and the paper's claims about them.

A concept's edit is compared with each control **case by case**: the difference of both outcomes of
the same case (the same object to the same region, the same picture to the same style), averaged,
with a 95 % interval over pictures. For shares it is that of `evaluation.proportion`, which has
width also where all cases agree; else it is a percentile bootstrap. Overlapping intervals of two
methods say little when both were tried on the same pictures; the interval of the difference does.
Cases that one of both lacks (a noun without a concept) are left out.

`margin` is the smallest difference of a share that counts, so that "no effect" can be shown:

- a success *rises* above a control where the interval of the difference lies above 0; it *does not*
  where the interval excludes a rise of `margin` or more; otherwise it is open (None);
- two figures are *alike* where the interval lies within (-margin, margin).

The claims are those of Emergence (arXiv 2504.15473, sections 1 and 6): early, layout can be moved
and style cannot; middle, layout is fixed and style can be steered; final, texture only. Every cell
evaluated in the window of a claim is asked: success must rise above no edit **and** above a random
latent pushed equally hard. "Can" holds where some cell rises and fails where no cell does; "cannot"
is the opposite. With many cells "some cell" is easier to reach: the cells are listed. Where a cell
has the SAE of the window's own t (1, .5 and 0, as in the paper), only such cells are asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar, Unpack

from diffusae.evaluation.proportion import share_difference
from diffusae.evaluation.result import Estimate, Interval, Resampling, Result, bootstrap_mean
from diffusae.parsing import typed

R = TypeVar("R")
AGAINST = ("no_edit", "random_latent")
"""The controls that a success must rise above to count for a claim."""


@dataclass(frozen=True)
class Staged:
    """What a row of the three-stage table says of its figure: the row's `details`.

    Attributes:
        window: its name. bounds: its first and last t.
        edit: "spatial", "style", "tone" or "grain".
        together: whether several blocks were edited at once.
        measure: such as "success".
        chance: what a blind throw reaches; None where there is no such thing.
        differences: control -> the figure minus it, of the same cases; what was not compared is
            missing.
        standing: control -> the figure beside it, see `standing`.
        strengths: method -> its strength.
        own_t: whether the SAE is that of the window's own t, as in the paper: 1, .5 and 0.
        draws: how the random draws spread: n, mean, low, high, max.
    """

    window: str
    bounds: tuple[float, float]
    edit: str
    together: bool
    measure: str
    blocks: list[str]
    tag: str
    chance: float | None
    differences: dict[str, Estimate]
    standing: dict[str, str]
    strengths: dict[str, float] | None = None
    conditionings: list[str] | None = None
    own_t: bool = False
    draws: dict[str, float] | None = None

    @classmethod
    def of(cls, row: Result) -> Staged:
        """Read a row's details; other entries are left alone. `UserError` for wrong ones."""
        names = [field.name for field in fields(cls) if field.name in row.details]
        return typed(cls, {name: row.details[name] for name in names})

    def to_json(self) -> dict[str, Any]:
        """The details as JSON values, without those that the row does not have."""
        optional = ("strengths", "conditionings", "draws")
        lacking = {name for name in optional if getattr(self, name) is None}
        return {name: value for name, value in asdict(self).items() if name not in lacking}


@dataclass(frozen=True)
class Claim:
    """A hypothesis: in this window, this kind of edit can, or cannot, change the picture."""

    window: str
    edit: str
    can: bool
    text: str


@dataclass(frozen=True)
class Coordinates:
    """The cell of a result."""

    model: str
    block: str
    t: float
    conditioning: str


@dataclass(frozen=True)
class CellAnswer:
    """The success of an edit at one cell: `value`, `ci95`, `n`, `clusters` as in `results.json`.

    Attributes:
        differences: each control of `AGAINST` -> success minus it; None where it was not compared.
        rises: whether the success rises above them all; None: open.
    """

    cell: Coordinates
    tag: str
    blocks: list[str]
    value: float | None
    ci95: Interval | None
    n: int
    differences: dict[str, Estimate | None]
    rises: bool | None
    clusters: int | None = None

    def __post_init__(self) -> None:
        _ = self.own  # refuses figures that do not go together

    @property
    def own(self) -> Estimate:
        """The success as an estimate."""
        return Estimate(self.value, self.ci95, self.n, self.clusters)


@dataclass(frozen=True)
class Answer(Claim):
    """A claim and what the cells say of it: a row of claims.json. `holds` None: open."""

    holds: bool | None
    cells: list[CellAnswer]

    @classmethod
    def of(cls, claim: Claim, cells: list[CellAnswer]) -> Answer:
        """The answer of cells; without any it is open."""
        some, none = any(cell.rises for cell in cells), all(cell.rises is False for cell in cells)
        changes = True if some else False if cells and none else None
        holds = changes if claim.can or changes is None else not changes
        return cls(**vars(claim), holds=holds, cells=cells)


CLAIMS = (
    Claim("early", "spatial", True, "layout can be moved"),
    Claim("early", "style", False, "style cannot be steered"),
    Claim("middle", "spatial", False, "layout is fixed"),
    Claim("middle", "style", True, "style can be steered"),
    Claim("final", "spatial", False, "layout is fixed"),
    Claim("final", "style", False, "style is fixed"),
    Claim("final", "grain", True, "texture can be changed"),
)


def paired_difference(
    own: Mapping[Hashable, float],
    other: Mapping[Hashable, float],
    *,
    pictures: Mapping[Hashable, Hashable],
    of_shares: bool = False,
    **resampling: Unpack[Resampling],
) -> Estimate:
    """Mean of `own` minus `other` over the cases with a finite value in both; no common case: no
    data.

    Args:
        pictures: the picture of every case of `own`; the interval resamples pictures.
        of_shares: the values are truths (0 or 1) or shares, see `share_difference`. Else it is a
            bootstrap, and one picture has no interval.
    """
    cases = [
        case
        for case in own
        if case in other and math.isfinite(own[case]) and math.isfinite(other[case])
    ]
    values = [own[case] - other[case] for case in cases]
    groups = [str(pictures[case]) for case in cases]
    if of_shares:
        return share_difference(values, groups)
    return bootstrap_mean(values, groups=groups, **resampling)


def difference_to(value: float, own: Estimate) -> Estimate:
    """The difference to a constant control, such as the SSIM of no edit, 1."""
    if own.value is None:
        return own
    ci95 = None if own.ci95 is None else (own.ci95[0] - value, own.ci95[1] - value)
    return replace(own, value=own.value - value, ci95=ci95)


def standing(difference: Estimate, *, higher_is_better: bool, margin: float | None) -> str:
    """An edit against a control: "better", "worse", "alike" (margin None: never), "unclear"."""
    if difference.ci95 is None:
        return "unclear"
    low, high = difference.ci95
    if low > 0 or high < 0:
        return "better" if (low > 0) == higher_is_better else "worse"
    return "alike" if margin is not None and -margin < low and high < margin else "unclear"


def rises(differences: Sequence[Estimate], *, margin: float) -> bool | None:
    """Whether a success rises above all controls; None: open, or there is nothing to compare."""
    answers = []
    for difference in differences:
        low, high = difference.ci95 or (-math.inf, math.inf)
        answers.append(True if low > 0 else False if high < margin else None)
    if not answers or False in answers:
        return False if answers else None
    return None if None in answers else True


def answered(results: Sequence[Result], *, margin: float) -> list[Answer]:
    """Every claim with the answer of each cell, from the success rows of the three-stage table."""
    rows = [(row, Staged.of(row)) for row in results]
    answers = []
    for claim in CLAIMS:
        asked = [
            (row, staged)
            for row, staged in rows
            if (staged.window, staged.edit, staged.measure) == (claim.window, claim.edit, "success")
        ]
        own = at_own_t(asked, lambda pair: pair[1].own_t)
        cells = [_at_cell(row, staged, margin) for row, staged in own]
        answers.append(Answer.of(claim, cells))
    return answers


def at_own_t(rows: Sequence[R], own_t: Callable[[R], bool]) -> list[R]:
    """The rows with the SAE of their window's own t; all of them where none has it."""
    return [row for row in rows if own_t(row)] or list(rows)


def _at_cell(row: Result, staged: Staged, margin: float) -> CellAnswer:
    differences = {name: staged.differences.get(name) for name in AGAINST}
    known = [difference for difference in differences.values() if difference is not None]
    return CellAnswer(
        cell=typed(Coordinates, row.cell),
        tag=staged.tag,
        blocks=staged.blocks,
        **asdict(row.estimate),
        differences=differences,
        rises=rises(known, margin=margin) if len(known) == len(AGAINST) else None,
    )
