"""The result of every metric, and the bootstrap behind its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffusae.errors import UserError
from diffusae.files import atomic_write_json, verified
from diffusae.parsing import of_type, read_json, reading, typed

Interval = tuple[float, float]
RESULT_VERSION = 1
_WEIGHTS_AT_ONCE = 20_000_000


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval and its counts. `value` None: no data, and then n is 0.

    Attributes:
        n: the cases.
        clusters: the pictures that the cases come from. Cases of one picture are not independent,
            so the interval resamples pictures. None: every case is of another one (or the file is
            of an earlier version, which did not count them).

    Raises:
        UserError: a value that is not finite, an interval without a value, counts that do not fit.
    """

    value: float | None
    ci95: Interval | None = None
    n: int = 0
    clusters: int | None = None
    draws: ClassVar[NDArray[np.float64] | None] = None
    """The resampled values, where they were just computed: no part of a file, or of equality."""

    def __post_init__(self) -> None:
        numbers = [number for number in (self.value, *(self.ci95 or ())) if number is not None]
        if not all(math.isfinite(number) for number in numbers):
            raise UserError(
                f"a result must be finite, got {self}; use None (n = 0) where there are no data"
            )
        no_value = self.value is None
        if self.n < 0 or no_value != (self.n == 0) or (no_value and self.ci95 is not None):
            raise UserError(f"a value, its interval and n > 0 go together, got {self}")
        if self.clusters is not None and not 1 <= self.clusters <= self.n:
            raise UserError(f"n cases are of 1 to n pictures, got {self}")

    @classmethod
    def known(cls, value: float, *, n: int) -> Estimate:
        """A figure that is known without measuring, such as chance, beside one with `n` data:
        without data there is nothing to compare.
        """
        return cls(value, None, n) if n else cls(None)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Estimate:
        """Read a row, which may have more entries; `UserError` for missing or wrong ones."""
        return typed(cls, _figures(row))

    def drawn(self, draws: NDArray[np.float64] | None) -> Self:
        """The same, with the resampled values behind its interval as `draws`."""
        object.__setattr__(self, "draws", draws)
        return self

    @property
    def counted(self) -> str:
        """The counts in words: "20 of 5 pictures", or "20" where every case is of another one."""
        pictures = "" if self.clusters is None else f" of {self.clusters} picture"
        return f"{self.n}{pictures}{'s' if self.clusters not in (None, 1) else ''}"


NO_DATA = Estimate(None)


@dataclass(frozen=True)
class Result:
    """One row of results.json.

    Attributes:
        metric: the metric's name.
        estimate: value, interval, n, clusters.
        higher_is_better: the metric's direction.
        unit: of the value, for example "IoU".
        cell: model, block, t, conditioning.
        baselines: name -> estimate on the same data; at least chance.
        details: all else that explains the figure (chosen settings, counts without data), as JSON
            values.
        version: of the metric's definition.
        made_in: the directory of the run that holds the row, from the study's own; "" where it is
            not known. No part of the file, or of equality.
    """

    metric: str
    estimate: Estimate
    higher_is_better: bool
    unit: str
    cell: dict[str, Any] = field(default_factory=dict)
    baselines: dict[str, Estimate] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    version: int = RESULT_VERSION
    made_in: str = field(default="", compare=False)

    @property
    def value(self) -> float | None:
        """The estimate's value."""
        return self.estimate.value

    def to_json(self) -> dict[str, Any]:
        """The row as JSON values; the estimate's entries are on the level of `metric`."""
        return {
            "metric": self.metric,
            **asdict(self.estimate),
            "higher_is_better": self.higher_is_better,
            "unit": self.unit,
            "cell": self.cell,
            "baselines": {name: asdict(estimate) for name, estimate in self.baselines.items()},
            "details": self.details,
            "version": self.version,
        }

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Result:
        """The inverse of `to_json`; `UserError` for other fields or figures that are not finite."""
        names = ("metric", "higher_is_better", "unit", "cell", "baselines", "details", "version")
        entries = _entries(row, names)
        baselines = of_type(entries.pop("baselines"), dict, "baselines")
        named = {name: _figures(entry) for name, entry in baselines.items()}
        estimate = _figures(row)
        return typed(cls, {**entries, "estimate": estimate, "baselines": named})


def _figures(row: Any) -> dict[str, Any]:
    """The entries of an estimate; files of earlier versions have no `clusters`."""
    clusters = of_type(row, dict, "a row").get("clusters")
    return {**_entries(row, ("value", "ci95", "n")), "clusters": clusters}


def _entries(row: Any, names: Sequence[str]) -> dict[str, Any]:
    """These entries of a row; `UserError` where one is missing."""
    row = of_type(row, dict, "a row")
    if missing := [name for name in names if name not in row]:
        raise UserError(f"a row lacks {', '.join(missing)}")
    return {name: row[name] for name in names}


def save_results(path: Path | str, results: Sequence[Result]) -> None:
    """Write results.json, atomically."""
    atomic_write_json(path, [result.to_json() for result in results])


def load_results(path: Path | str) -> list[Result]:
    """Read results.json; `UserError` where it is missing or no list of rows."""
    remedy = f"remove {Path(path).parent} and evaluate this cell again"
    try:
        rows = read_json(verified(path), remedy=remedy, kind=list)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {remedy}") from None
    with reading(path, remedy=remedy):
        return [Result.from_json(row) for row in rows]


RESAMPLES = 2000


class Resampling(TypedDict, total=False):
    """How a bootstrap draws: `n_resamples` times (else RESAMPLES), from `seed` (else 0)."""

    n_resamples: int
    seed: int


def bootstrap_weights(
    n_groups: int, *, n_resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """How often each group is drawn, [n_resamples, n_groups]; rows sum to n_groups."""
    generator = np.random.default_rng(seed)
    weights = generator.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n_resamples)
    return weights.astype(np.float64)


def percentile_interval(statistics: NDArray[np.float64]) -> Interval:
    """The 2.5 % and 97.5 % points of resampled statistics."""
    low, high = np.quantile(statistics, (0.025, 0.975))
    return float(low), float(high)


def bootstrap_mean(
    values: ArrayLike, *, groups: Sequence[Any] | None = None, **resampling: Unpack[Resampling]
) -> Estimate:
    """Mean, 95 % percentile bootstrap interval, and the numbers of values and of groups.

    With `groups` (the picture of each value) whole groups are resampled, because the values of one
    picture are not independent. No values: no data. A single group: no interval. Values that all
    agree have an interval without width: shares belong to `evaluation.proportion`.

    Raises:
        UserError: a value that is not finite, or groups of another length.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.size == 0:
        return NO_DATA
    if not np.isfinite(values).all():
        raise UserError("cannot average values that are not finite; leave out what has no data")
    sums, counts = by_group(values, groups)
    n, clusters = int(values.size), len(sums)
    means = resampled_means(sums, counts, **resampling) if clusters > 1 else None
    interval = None if means is None else percentile_interval(means)
    estimate = Estimate(float(values.mean()), interval, n, clusters if clusters < n else None)
    return estimate.drawn(means)


def by_group(
    values: NDArray[np.float64], groups: Sequence[Any] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The sum and the number of each group's values; without groups each value is one.

    Raises:
        UserError: groups of another length.
    """
    if groups is None:
        return values, np.ones(len(values))
    if len(groups) != values.size:
        raise UserError(f"{values.size} values need as many groups, got {len(groups)}")
    labels = np.unique(np.asarray(groups), return_inverse=True)[1]
    sums = np.bincount(labels, weights=values).astype(np.float64)
    return sums, np.bincount(labels).astype(np.float64)


def resampled_means(
    sums: NDArray[np.float64],
    counts: NDArray[np.float64],
    *,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Means of resampled groups, [n_resamples], or [n_resamples, values] of values drawn jointly.

    Args:
        sums: the sum of each group's values, [groups] or [groups, values].
        counts: the number of each group's values.
    """
    # In blocks: the whole weight matrix of a large split would not fit into memory.
    block = max(1, _WEIGHTS_AT_ONCE // len(sums))
    means = []
    for start in range(0, n_resamples, block):
        size = min(block, n_resamples - start)
        weights = bootstrap_weights(len(sums), n_resamples=size, seed=seed + start)
        total = weights @ counts
        means.append((weights @ sums) / (total if sums.ndim == 1 else total[:, None]))
    return np.concatenate(means)
