"""What interventions do in each window of generation, and whether that is what the paper says.

A concept's edit is compared with each control **case by case**: the difference of the two outcomes
of the same case (the same object to the same region, the same picture to the same style), averaged,
with a 95 % percentile bootstrap over pictures. Two intervals that overlap say little about two
methods tried on the same pictures; the interval of their difference does. Cases that one of the two
lacks (a noun without a concept) are left out of the difference.

`margin` is the smallest difference of a share that counts, so that "no effect" can be found and not
only be missed:

- a success *rises* above a control where the interval of the difference lies above 0; it *does not*
  where the interval excludes a rise of `margin` or more; else the data cannot tell (None);
- two figures are *alike* where the interval lies within (-margin, margin).

The claims are those of Emergence (arXiv 2504.15473, sections 1 and 6): early, layout can be moved
and style cannot; middle, layout is fixed and style can be steered; final, texture only. Each is
asked of every cell that was evaluated in its window: success must rise above no edit **and** above
a random latent pushed equally hard. "Can" holds where some cell does and fails where no cell does;
"cannot" the other way round. With many cells "some cell" comes easier: how many were asked is told.

A bootstrap of few pictures that all agree has no width: n stands beside every figure.
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
    """A hypothesis about one window: a kind of edit that can, or cannot, change the picture
    there.
    """

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
    """Mean of `own` minus `other` over the cases that have a finite value in both, resampled by
    picture.

    `pictures` has the picture of every case of `own`. No common case: no data. One picture: no
    interval.
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
    """The difference to a control that is the same number by definition, such as the SSIM of no
    edit, 1.
    """
    if own.value is None:
        return own
    ci95 = None if own.ci95 is None else (own.ci95[0] - value, own.ci95[1] - value)
    return Estimate(own.value - value, ci95, own.n)


def standing(difference: Estimate, *, higher_is_better: bool, margin: float | None) -> str:
    """How the concepts stand to a control: "better", "worse", "alike" (within `margin`; None:
    never) or "unclear".
    """
    if difference.ci95 is None:
        return "unclear"
    low, high = difference.ci95
    if low > 0 or high < 0:
        return "better" if (low > 0) == higher_is_better else "worse"
    return "alike" if margin is not None and -margin < low and high < margin else "unclear"


def rises(differences: Sequence[Estimate], *, margin: float) -> bool | None:
    """Whether a success rises above all of several controls; None where that cannot be told, or
    nothing is compared.
    """

    def one(each: Estimate) -> bool | None:
        if each.ci95 is None:
            return None
        return True if each.ci95[0] > 0 else False if each.ci95[1] < margin else None

    found = [one(each) for each in differences]
    if not found or False in found:
        return False if found else None
    return None if None in found else True


def judged(results: Sequence[Result], *, margin: float) -> list[dict[str, Any]]:
    """Every claim with what each cell says of it, as JSON values: `holds` is true, false, or null
    where it is open.

    `results` are the success rows of the three-stage table: `details` with `window`, `edit`,
    `measure`, `differences`.
    """
    return [
        {
            **asdict(claim),
            **_asked(claim, [row for row in results if _speaks_to(claim, row)], margin),
        }
        for claim in CLAIMS
    ]


def _speaks_to(claim: Claim, row: Result) -> bool:
    asked = (row.details["window"], row.details["edit"], row.details["measure"])
    return asked == (claim.window, claim.edit, "success")


def _asked(claim: Claim, rows: Sequence[Result], margin: float) -> dict[str, Any]:
    cells, found = [], []
    for row in rows:
        differences = {name: row.details["differences"].get(name) for name in AGAINST}
        known = [Estimate.from_json(each) for each in differences.values() if each is not None]
        found.append(rises(known, margin=margin) if len(known) == len(AGAINST) else None)
        cells.append(
            {
                "cell": row.cell,
                "tag": row.details["tag"],
                "blocks": row.details["blocks"],
                **asdict(row.estimate),
                "differences": differences,
                "rises": found[-1],
            }
        )
    some, none = True in found, bool(found) and all(each is False for each in found)
    holds = (
        (True if some else False if none else None)
        if claim.can
        else (True if none else False if some else None)
    )
    return {"holds": holds, "cells": cells}
