"""The rows of results.json as the report reads them: ordered, compared with their baselines,
written out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffusae.errors import UserError

NO_DATA = "no data"
_BLOCKS = ("down", "mid", "up")
_CONDITIONINGS = ("cond", "uncond")
_NAMES = {"fvu": "FVU", "scaled_mse": "scaled MSE", "l0": "L0", "pca": "PCA"}


@dataclass(frozen=True)
class Figure:
    """A value with its 95 % interval and count; None where there are no data or no interval."""

    value: float | None
    ci95: tuple[float, float] | None
    n: int

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Figure:
        """From a row of results.json or one of its baselines."""
        ci95 = row["ci95"]
        return cls(
            row["value"], None if ci95 is None else (float(ci95[0]), float(ci95[1])), row["n"]
        )

    def text(self, decimals: int = 3) -> str:
        """Such as "0.310 [0.280, 0.340]"."""
        if self.value is None:
            return NO_DATA
        shown = number(self.value, decimals)
        return shown if self.ci95 is None else f"{shown} {self.interval(decimals)}"

    def interval(self, decimals: int = 3) -> str:
        """Such as "[0.280, 0.340]"."""
        if self.ci95 is None:
            return "no interval"
        return f"[{number(self.ci95[0], decimals)}, {number(self.ci95[1], decimals)}]"


@dataclass(frozen=True)
class Row:
    """One metric at one cell. `baselines` keep the order of the file."""

    metric: str
    block: str
    t: float
    conditioning: str
    figure: Figure
    baselines: Mapping[str, Figure]
    higher_is_better: bool
    unit: str
    details: Mapping[str, Any]

    def clears(self, baseline: Figure) -> bool | None:
        """Whether the whole interval is better than the whole interval of a baseline.

        A baseline without an interval counts as its value. None: there is nothing to compare.
        """
        if self.figure.ci95 is None or baseline.value is None:
            return None
        low, high = baseline.ci95 or (baseline.value, baseline.value)
        return self.figure.ci95[0] > high if self.higher_is_better else self.figure.ci95[1] < low

    @property
    def rivals(self) -> dict[str, Figure]:
        """The baselines to be cleared: those with data, without ceilings (what the best could
        reach) and probes (what a reader reaches that was shown the labels).
        """
        return {
            name: each
            for name, each in self.baselines.items()
            if not name.endswith(("ceiling", "probe")) and each.value is not None
        }

    @property
    def uncleared(self) -> list[str] | None:
        """The rivals that are not cleared; None where nothing can be said."""
        if self.figure.ci95 is None or not self.rivals:
            return None
        return [name for name, each in self.rivals.items() if not self.clears(each)]


def rows_of(results: Iterable[Mapping[str, Any]], metric: str) -> list[Row]:
    """The rows of one metric, in the order: block, t from 1 to 0, conditioning.

    Raises:
        UserError: a row that lacks a field.
    """
    try:
        rows = [
            Row(
                metric=metric,
                block=str(each["cell"]["block"]),
                t=float(each["cell"]["t"]),
                conditioning=str(each["cell"]["conditioning"]),
                figure=Figure.of(each),
                baselines={
                    name: Figure.of(baseline) for name, baseline in each["baselines"].items()
                },
                higher_is_better=each["higher_is_better"],
                unit=each["unit"],
                details=each.get("details", {}),
            )
            for each in results
            if each["metric"] == metric
        ]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"a row of {metric} is incomplete ({error!r}); evaluate this cell again"
        ) from error
    return sorted(rows, key=lambda row: cell_order(row.block, row.t, row.conditioning))


def cell_order(block: str, t: float, conditioning: str) -> tuple[Any, ...]:
    """The key that sorts cells: down, mid, up, then others by name; t from 1 to 0; cond before
    uncond.
    """
    return (*_rank(block, _BLOCKS), -t, *_rank(conditioning, _CONDITIONINGS))


def blocks_of(names: Iterable[str]) -> list[str]:
    """The distinct blocks, in order."""
    return sorted(set(names), key=lambda name: _rank(name, _BLOCKS))


def conditionings_of(names: Iterable[str]) -> list[str]:
    """The distinct conditionings, in order."""
    return sorted(set(names), key=lambda name: _rank(name, _CONDITIONINGS))


def times_of(times: Iterable[float]) -> list[float]:
    """The distinct t, from the first step (1) to the last (0)."""
    return sorted(set(times), reverse=True)


def number(value: float | None, decimals: int = 3) -> str:
    """A figure as text; large ones with a single decimal."""
    if value is None:
        return NO_DATA
    text = f"{value:.{decimals if abs(value) < 10 else 1}f}"
    return (
        text[1:]
        if text.startswith("-") and not any(digit in text for digit in "123456789")
        else text
    )


def plain(name: str) -> str:
    """A metric's or baseline's name in words."""
    return _NAMES.get(name) or name.replace("_", " ")


def capital(text: str) -> str:
    """The text with its first letter in upper case and the rest as it is."""
    return text[:1].upper() + text[1:]


def main_block(names: Iterable[str]) -> str:
    """The block that stands for all where only one is shown: mid, else the first."""
    blocks = blocks_of(names)
    return "mid" if "mid" in blocks else blocks[0]


@dataclass(frozen=True)
class Headline:
    """The findings in sentences: of one cell, its comparison with the baselines, and over the grid.

    `cleared` is None where nothing can be said.
    """

    finding: str
    verdict: str
    overview: str
    cleared: bool | None


def headline(results: Iterable[Mapping[str, Any]]) -> Headline:
    """What composition prediction found, in words made from the rows.

    The cell is fixed beforehand, not picked for its value: the mid block (else the first), cond,
    first step.
    """
    rows = rows_of(results, "composition")
    if not rows:
        return Headline("No composition results yet.", "", "", None)
    block = main_block(row.block for row in rows)
    of_block = [row for row in rows if row.block == block]
    conditioning = conditionings_of(row.conditioning for row in of_block)[0]
    row = next(each for each in of_block if each.conditioning == conditioning)
    finding = (
        f"{cell_text(row)}: {row.unit} {row.figure.text(2)} at t = {row.t:.2f}, n = {row.figure.n}"
    )
    if row.figure.value is None:
        finding = f"{cell_text(row)}: {NO_DATA} at t = {row.t:.2f}"
    if chance := row.rivals.get("chance"):
        finding += f"; chance {number(chance.value, 2)}"
    uncleared = row.uncleared
    return Headline(
        finding=finding + ".",
        verdict=_verdict(row),
        overview=_overview(rows),
        cleared=None if uncleared is None else not uncleared,
    )


def cell_text(row: Row) -> str:
    """Such as "Mid block, cond"."""
    return f"{capital(row.block)} block, {row.conditioning}"


def _verdict(row: Row) -> str:
    uncleared = row.uncleared
    if uncleared is None:
        return "Without an interval and a baseline nothing can be said about this cell."
    cleared = [name for name in row.rivals if name not in uncleared]

    def listed(names: Sequence[str]) -> str:
        return ", ".join(f"{plain(name)} {row.rivals[name].text(2)}" for name in names)

    if not uncleared:
        return f"Its interval clears every baseline: {listed(cleared)}."
    verdict = f"Its interval does not clear {listed(uncleared)}"
    return f"{verdict}; it clears {listed(cleared)}." if cleared else f"{verdict}."


def _overview(rows: Sequence[Row]) -> str:
    known = [row for row in rows if row.figure.value is not None]
    if not known:
        return f"None of the {len(rows)} cells has data."
    best = max(
        known, key=lambda row: (row.figure.value or 0.0) * (1 if row.higher_is_better else -1)
    )
    clear = sum(row.uncleared == [] for row in rows)
    by_chance = sum(
        bool(row.clears(row.rivals["chance"])) for row in rows if "chance" in row.rivals
    )
    return (
        f"Of {len(rows)} cells {by_chance} clear chance and {clear} clear every baseline. Best of"
        f" all: {best.block}, {best.conditioning}, t = {best.t:.2f}, with {best.figure.text(2)}."
    )


@dataclass(frozen=True)
class MetricTable:
    """A metric's rows with all that is known of each, as the page prints it."""

    metric: str
    unit: str
    higher_is_better: bool
    baselines: list[str]
    rows: list[Row]

    @property
    def has_details(self) -> bool:
        """Whether any row explains itself."""
        return any(row.details for row in self.rows)


def metric_tables(results: Sequence[Mapping[str, Any]]) -> list[MetricTable]:
    """One table a metric, in the order in which the metrics first appear."""
    tables = []
    for metric in dict.fromkeys(str(each["metric"]) for each in results):
        rows = rows_of(results, metric)
        names = list(dict.fromkeys(name for row in rows for name in row.baselines))
        tables.append(MetricTable(metric, rows[0].unit, rows[0].higher_is_better, names, rows))
    return tables


def details_text(details: Mapping[str, Any]) -> str:
    """Nested details in one line, such as "top_n 5, threshold 0.41, n_pictures 96"."""
    parts = []
    for name, value in details.items():
        if isinstance(value, Mapping):
            parts.append(details_text(value))
        elif isinstance(value, float):
            parts.append(f"{plain(name)} {number(value)}")
        else:
            parts.append(f"{plain(name)} {value}")
    return ", ".join(part for part in parts if part)


def _rank(name: str, known: Sequence[str]) -> tuple[int, str]:
    return (known.index(name) if name in known else len(known), name)
