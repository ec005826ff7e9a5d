"""The effects of interventions in each window of generation, and the paper's claims about them.

A concept's edit is compared with each control **case by case**: the difference of both outcomes of
the same case (the same object to the same region, the same picture to the same style), averaged,
with a 95 % percentile bootstrap over pictures. Overlapping intervals of two methods say little when
both were tried on the same pictures; the interval of the difference does. Cases that one of both
lacks (a noun without a concept) are left out.

`margin` is the smallest difference of a share that counts, so that "no effect" can be shown:

- a success *rises* above a control where the interval of the difference lies above 0; it *does not*
  where the interval excludes a rise of `margin` or more; otherwise it is open (None);
- two figures are *alike* where the interval lies within (-margin, margin).

The claims are those of Emergence (arXiv 2504.15473, sections 1 and 6): early, layout can be moved
and style cannot; middle, layout is fixed and style can be steered; final, texture only. Every cell
evaluated in the window of a claim is asked: success must rise above no edit **and** above a random
latent pushed equally hard. "Can" holds where some cell rises and fails where no cell does; "cannot"
is the opposite. With many cells "some cell" is easier to reach: the cells are listed.

A bootstrap of few pictures that all agree has no width: read n beside every figure.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from diffusae.evaluation.result import Estimate, Result, bootstrap_mean

AGAINST = ("no_edit", "random_latent")
"""The controls that a success must rise above to count for a claim."""


@dataclass(frozen=True)
class Claim:
    """A hypothesis: in this window, this kind of edit can, or cannot, change the picture."""

    window: str
    edit: str
    can: bool
    text: str


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
    n_resamples: int,
    seed: int,
) -> Estimate:
    """Mean of `own` minus `other` over the cases with a finite value in both.

    `pictures` has the picture of every case of `own`; the bootstrap resamples pictures. No common
    case: no data. One picture: no interval.
    """
    cases = [
        case
        for case in own
        if case in other and math.isfinite(own[case]) and math.isfinite(other[case])
    ]
    return bootstrap_mean(
        [own[case] - other[case] for case in cases],
        groups=[str(pictures[case]) for case in cases],
        n_resamples=n_resamples,
        seed=seed,
    )


def difference_to(value: float, own: Estimate) -> Estimate:
    """The difference to a constant control, such as the SSIM of no edit, 1."""
    if own.value is None:
        return own
    ci95 = None if own.ci95 is None else (own.ci95[0] - value, own.ci95[1] - value)
    return Estimate(own.value - value, ci95, own.n)


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


def judged(results: Sequence[Result], *, margin: float) -> list[dict[str, Any]]:
    """Every claim with the answer of each cell, as JSON values; `holds` null: open.

    `results` are the success rows of the three-stage table: `details` with `window`, `edit`,
    `measure`, `differences`.
    """
    about = {claim: [row for row in results if _speaks_to(claim, row)] for claim in CLAIMS}
    return [{**asdict(claim), **_asked(claim, rows, margin)} for claim, rows in about.items()]


def _speaks_to(claim: Claim, row: Result) -> bool:
    asked = (row.details["window"], row.details["edit"], row.details["measure"])
    return asked == (claim.window, claim.edit, "success")


def _asked(claim: Claim, rows: Sequence[Result], margin: float) -> dict[str, Any]:
    cells, answers = [], []
    for row in rows:
        differences = {name: row.details["differences"].get(name) for name in AGAINST}
        known = [Estimate.from_json(entry) for entry in differences.values() if entry is not None]
        answers.append(rises(known, margin=margin) if len(known) == len(AGAINST) else None)
        cells.append(
            {
                "cell": row.cell,
                "tag": row.details["tag"],
                "blocks": row.details["blocks"],
                **asdict(row.estimate),
                "differences": differences,
                "rises": answers[-1],
            }
        )
    some, none = True in answers, bool(answers) and all(rise is False for rise in answers)
    changes = True if some else False if none else None
    holds = changes if claim.can or changes is None else not changes
    return {"holds": holds, "cells": cells}
