"""The effects of interventions in each window of generation.

A concept's edit is compared with each control **case by case**: the difference of both outcomes of
the same case (the same object to the same region, the same picture to the same style), averaged,
with a 95 % interval over pictures. For shares it is that of `evaluation.proportion`, which has
width also where all cases agree; else it is a percentile bootstrap. Overlapping intervals of two
methods say little when both were tried on the same pictures; the interval of the difference does.
Cases that one of both lacks (a noun without a concept) are left out.

`margin` is the smallest difference of a share that counts: two figures are *alike* where the
interval lies within (-margin, margin). Claims about these effects are registered and judged on
other pictures (`diffusae.evaluation.claims`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar, Unpack

from diffusae.evaluation.proportion import share_difference
from diffusae.evaluation.result import Estimate, Resampling, Result, bootstrap_mean
from diffusae.parsing import typed

R = TypeVar("R")


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
class Coordinates:
    """The cell of a result."""

    model: str
    block: str
    t: float
    conditioning: str


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


def at_own_t(rows: Sequence[R], own_t: Callable[[R], bool]) -> list[R]:
    """The rows with the SAE of their window's own t; all of them where none has it."""
    return [row for row in rows if own_t(row)] or list(rows)
