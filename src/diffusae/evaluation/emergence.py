"""When composition emerges: the t at which a score's curve has reached most of its final value.

The curve is the mean IoU of the same objects at every moment, from t = 1 (first reverse step) down
to t = 0 (last). Its final value is the one at the smallest t, and the target is `share` of it (0.9:
"t90"). The figure is **the largest t from which on the curve is never below its target again**,
linearly interpolated between the two moments around it. Emergence (arXiv 2504.15473, section 5)
concludes from three moments that composition is fixed by t = 0.5. It has no such figure, so the
definition is ours. It is

- not the first crossing from t = 1 down: one high value of a noisy curve, followed by low ones,
  would count as emergence, and more moments make such a value likelier. The question is from when
  on the composition *stays* readable. `first_reached` has the first crossing too; for a curve that
  never falls both are equal;
- not a fitted or monotone curve: it would need an assumed shape, and it hides a curve that falls
  again.

A curve may exceed its final value on the way. Range: from the smallest to the largest t. A larger t
is an earlier emergence. A curve that is at its target from the first moment on has the largest t,
"or earlier".

Pairing: only objects with data at every moment make up the curve, so that no step comes from a
change of objects; the others are counted. The interval is a 95 % percentile bootstrap over
pictures, drawn jointly for all moments, with target and final value computed in every resample. A
resample whose final value is not positive is left out.

Empty cases: a moment without any object is left out. No object at all, fewer than two moments, or a
final value that is not positive: no data. One picture: no interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Unpack

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from diffusae.errors import UserError
from diffusae.evaluation.result import (
    NO_DATA,
    Estimate,
    Resampling,
    Result,
    percentile_interval,
    resampled_means,
)

VERSION = 1

Item = tuple[str, str]
"""An object: image id and noun."""


@dataclass(frozen=True)
class Paired:
    """Scores of the same objects at every moment.

    Attributes:
        times: descending.
        items: the objects, (picture, noun); the bootstrap resamples pictures.
        scores: [items, times].
        n_incomplete: objects left out because some moment has no data of them.
    """

    times: tuple[float, ...]
    items: tuple[Item, ...]
    scores: Float[NDArray[np.float64], "items times"]
    n_incomplete: int

    @property
    def groups(self) -> list[str]:
        """The picture of each object."""
        return [image_id for image_id, _ in self.items]


@dataclass(frozen=True)
class Emergence:
    """A curve and the t at which it has emerged.

    Attributes:
        curve: (t, mean score), t descending.
        reached: the t from which on the curve is never below its target again.
        between: the two moments around `reached`, larger t first: the resolution of the grid, which
            the interval does not include. None where `reached` is the largest t or no data.
        first_reached: the t of the first crossing from the largest t down; None where `reached` is
            no data.
        rise: final minus first value of the same objects; an interval that holds 0 means that
            hardly anything emerges.
        n_incomplete: objects left out because some moment has no data of them.
    """

    curve: list[tuple[float, Estimate]]
    reached: Estimate
    between: tuple[float, float] | None
    first_reached: float | None
    rise: Estimate
    n_incomplete: int


def paired(tables: Mapping[float, Mapping[Item, float]]) -> Paired:
    """The objects that have a finite score at every moment of `tables`, t -> object -> score.

    Raises:
        UserError: a t outside [0, 1].
    """
    if outside := [t for t in tables if not 0 <= t <= 1]:
        raise UserError(
            f"t={outside[0]} lies outside [0, 1] (1 = first reverse step); give normalised times"
        )
    known = {
        t: {item: score for item, score in table.items() if np.isfinite(score)}
        for t, table in tables.items()
    }
    times = tuple(sorted((t for t, table in known.items() if table), reverse=True))
    seen = dict.fromkeys(item for t in times for item in known[t])
    items = tuple(item for item in seen if all(item in known[t] for t in times))
    scores = np.array([[known[t][item] for t in times] for item in items], dtype=np.float64)
    return Paired(times, items, scores.reshape(len(items), len(times)), len(seen) - len(items))


def emergence(paired: Paired, *, share: float, **resampling: Unpack[Resampling]) -> Emergence:
    """The curve, and the t at which it has reached `share` of its final value (see the module).

    Raises:
        UserError: a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise UserError(
            f"share={share} of the final value must be above 0 and at most 1, such as 0.9"
        )
    times, n = np.array(paired.times), len(paired.items)
    if n == 0 or len(times) == 0:
        return Emergence([], NO_DATA, None, None, NO_DATA, paired.n_incomplete)
    labels = np.unique(np.array(paired.groups), return_inverse=True)[1]
    counts = np.bincount(labels).astype(np.float64)
    sums = np.zeros((len(counts), len(times)))
    np.add.at(sums, labels, paired.scores)
    mean = paired.scores.mean(axis=0)
    drawn = None
    if len(counts) > 1:
        drawn = resampled_means(sums, counts, **resampling)

    def estimate(value: float, resamples: NDArray[np.float64] | None) -> Estimate:
        finite = np.zeros(0) if resamples is None else resamples[np.isfinite(resamples)]
        interval = percentile_interval(finite) if len(finite) else None
        return Estimate(float(value), interval, n, len(counts) if len(counts) < n else None)

    columns = [None] * len(times) if drawn is None else list(drawn.T)
    curve = [
        (float(t), estimate(value, column))
        for t, value, column in zip(times, mean, columns, strict=True)
    ]
    rise = estimate(mean[-1] - mean[0], None if drawn is None else drawn[:, -1] - drawn[:, 0])
    if len(times) < 2 or mean[-1] <= 0:
        return Emergence(curve, NO_DATA, None, None, rise, paired.n_incomplete)
    resampled = None if drawn is None else settled(times, drawn, share=share)
    reached = estimate(settled(times, mean[None], share=share)[0], resampled)
    target = share * mean[-1]
    below = np.flatnonzero(mean < target)
    between = (float(times[below[-1]]), float(times[below[-1] + 1])) if len(below) else None
    first = _first_crossing(times, mean, target)
    return Emergence(curve, reached, between, first, rise, paired.n_incomplete)


def settled(
    times: Float[NDArray[np.float64], " t"],
    curves: Float[NDArray[np.float64], "n t"],
    *,
    share: float,
) -> Float[NDArray[np.float64], " n"]:
    """For each curve over descending times: the largest t from which on it stays at its target.

    The target is `share` of the curve's last value; NaN where that is not positive. Example: times
    1, 0.5, 0 and the curve 0, 6, 10 with share 0.8 (target 8): the last moment below is 0.5, and
    the line from (0.5, 6) to (0, 10) meets 8 at t = 0.25.
    """
    final = curves[:, -1]
    target = share * final
    below = curves < target[:, None]
    # The last moment below the target, or -1. All later moments are at or above it.
    last = np.where(below.any(axis=1), len(times) - 1 - below[:, ::-1].argmax(axis=1), -1)
    before, after = np.maximum(last, 0), np.minimum(last + 1, len(times) - 1)
    rows = np.arange(len(curves))
    crossing = _between(
        times[before], times[after], curves[rows, before], curves[rows, after], target
    )
    return np.where(final > 0, np.where(last < 0, times[0], crossing), np.nan)


def emergence_result(
    own: Emergence,
    *,
    share: float,
    cell: Mapping[str, Any],
    baselines: Mapping[str, Emergence],
    chance: Estimate,
    details: Mapping[str, Any] | None = None,
) -> Result:
    """The row of results.json: the t at which composition has emerged, beside other readers' t.

    `baselines` are curves of the same objects. `flat_curve` is added: the largest t, which any
    reader has that does not depend on t. `chance` is such a reader's score, for the report's plot.
    "Higher is better" means earlier.
    """
    flat = Estimate(own.curve[0][0], None, own.reached.n) if own.reached.n else NO_DATA
    return Result(
        metric="emergence",
        estimate=own.reached,
        higher_is_better=True,
        unit="t",
        cell=dict(cell),
        baselines={**{name: one.reached for name, one in baselines.items()}, "flat_curve": flat},
        details={
            **(details or {}),
            "share": share,
            "between": None if own.between is None else list(own.between),
            "first_reached": own.first_reached,
            "rise": asdict(own.rise),
            "chance": asdict(chance),
            "n_incomplete": own.n_incomplete,
            "curve": _points(own),
            "baseline_curves": {name: _points(one) for name, one in baselines.items()},
        },
        version=VERSION,
    )


def _first_crossing(times: NDArray[np.float64], curve: NDArray[np.float64], target: float) -> float:
    index = int(np.argmax(curve >= target))
    if index == 0:
        return float(times[0])
    return float(_between(times[index - 1], times[index], curve[index - 1], curve[index], target))


def _between(before: Any, after: Any, low: Any, high: Any, target: Any) -> Any:
    """The t where the line from (before, low) to (after, high) meets the target; flat: `after`."""
    height = np.where(high > low, high - low, 1.0)
    part = np.where(high > low, (target - low) / height, 1.0)
    return before + part * (after - before)


def _points(emerged: Emergence) -> list[dict[str, Any]]:
    return [{"t": t, **asdict(estimate)} for t, estimate in emerged.curve]
