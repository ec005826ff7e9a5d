"""One figure of several autoencoders that differ in their seed alone: two levels are resampled.

Every autoencoder has its own figure, resampled over pictures (or latents, or concepts): row s of a
table [seeds, resamples]. All rows draw the same pictures, so that column b is one draw of pictures.
For each column as many seeds are drawn with replacement, and their values are averaged. The
deviation of this mean from the mean of the column is multiplied by sqrt(S / (S - 1)), as few units
that are drawn from themselves vary too little (Rao & Wu 1988). The interval holds the middle 95 %.

Example: two seeds whose figures are .2 and .4 whatever the pictures. Both draws are the first seed
in a quarter of all cases, the second in a quarter, one of each in half: .2, .4 and .3, which become
.3 -+ .1 sqrt(2). The value is .3 with the interval [.16, .44].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from diffusae.errors import UserError
from diffusae.evaluation.result import NO_DATA, Estimate, Interval, Result, percentile_interval

SEEDS = "sae_seeds"
"""The entry of a row's details that counts the autoencoders; a row of one has none."""


def over_seeds(estimates: Sequence[Estimate], *, seed: int) -> Estimate:
    """The mean of the autoencoders' figures, with its interval and the counts of the first.

    Figures without data are left out. A figure of one autoencoder keeps its interval, and so does
    what has the same value and interval in all. A share, whose interval is not resampled, has all
    that the intervals of the autoencoders hold.
    """
    known = [estimate for estimate in estimates if estimate.value is not None]
    if len(known) < 2 or all(estimate == known[0] for estimate in known):
        return known[0] if known else NO_DATA
    value = float(np.mean([estimate.value for estimate in known if estimate.value is not None]))
    return Estimate(value, _interval(known, seed), known[0].n, known[0].clusters)


def results_over_seeds(of_seeds: Sequence[Sequence[Result]], *, seed: int) -> list[Result]:
    """The rows of one cell from those of each of its autoencoders, the study's own first.

    `details` are those of the study's own, with the number of autoencoders and the value of each.

    Raises:
        UserError: the autoencoders do not have the same rows.
    """
    if any([row.metric for row in rows] != [r.metric for r in of_seeds[0]] for rows in of_seeds):
        raise UserError("the autoencoders of a cell do not have the same rows; evaluate it again")
    made = []
    for rows in zip(*of_seeds, strict=True):
        names = [name for name in rows[0].baselines if all(name in row.baselines for row in rows)]
        about = {SEEDS: len(rows), "values_by_seed": [row.value for row in rows]}
        made.append(
            replace(
                rows[0],
                estimate=over_seeds([row.estimate for row in rows], seed=seed),
                baselines={
                    name: over_seeds([row.baselines[name] for row in rows], seed=seed)
                    for name in names
                },
                details={**rows[0].details, **about},
            )
        )
    return made


def _interval(known: Sequence[Estimate], seed: int) -> Interval | None:
    draws = [estimate.draws for estimate in known if estimate.draws is not None]
    if len(draws) < len(known):
        ends = [end for estimate in known for end in estimate.ci95 or ()]
        return (min(ends), max(ends)) if ends else None
    table = np.stack([of_seed[: min(map(len, draws))] for of_seed in draws])
    seeds, resamples = table.shape
    drawn = np.random.default_rng([seed, seeds]).integers(seeds, size=(seeds, resamples))
    middle = table.mean(axis=0)
    deviation = np.take_along_axis(table, drawn, axis=0).mean(axis=0) - middle
    spread = middle + math.sqrt(seeds / (seeds - 1)) * deviation
    finite = spread[np.isfinite(spread)]
    return percentile_interval(finite) if len(finite) else None
