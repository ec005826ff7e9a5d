"""The rows of results.json as the report reads them: ordered, compared with their baselines,
written out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffusae.errors import UserError
from diffusae.evaluation.result import Estimate, Result
from diffusae.evaluation.seeds import SEEDS
from diffusae.report.shown import Shows

NO_DATA = "no data"
HELD = {True: "holds", False: "does not hold", None: "undecided"}
"""Whether a claim holds, in words."""
_BLOCKS = ("down", "mid", "up")
_CONDITIONINGS = ("cond", "uncond")
_NAMES = {"fvu": "FVU", "scaled_mse": "scaled MSE", "l0": "L0", "pca": "PCA"}


def text_of(estimate: Estimate, decimals: int = 3) -> str:
    """Such as "0.310 [0.280, 0.340]"."""
    shown = number(estimate.value, decimals)
    return shown if estimate.ci95 is None else f"{shown} {interval(estimate, decimals)}"


def interval(estimate: Estimate, decimals: int = 3) -> str:
    """Such as "[0.280, 0.340]"."""
    if estimate.ci95 is None:
        return "no interval"
    return f"[{number(estimate.ci95[0], decimals)}, {number(estimate.ci95[1], decimals)}]"


@dataclass(frozen=True)
class Row:
    """The result of one metric at one cell. `baselines` keep the order of the file."""

    result: Result
    block: str
    t: float
    conditioning: str

    @classmethod
    def of(cls, result: Result) -> Row:
        """The row of a result; `UserError` where its cell lacks a coordinate."""
        try:
            cell = result.cell
            return cls(result, str(cell["block"]), float(cell["t"]), str(cell["conditioning"]))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"a row of {result.metric} is incomplete ({error!r}); evaluate this cell again"
            ) from error

    @property
    def figure(self) -> Estimate:
        """The metric's value with its interval."""
        return self.result.estimate

    @property
    def baselines(self) -> Mapping[str, Estimate]:
        """Name -> its value on the same data."""
        return self.result.baselines

    @property
    def details(self) -> Mapping[str, Any]:
        """What explains the value."""
        return self.result.details

    @property
    def place(self) -> str:
        """Such as "mid · t = 0.50 · cond"."""
        return f"{self.block} · t = {self.t:.2f} · {self.conditioning}"

    @property
    def notes(self) -> list[str]:
        """What must stand beside the value: degenerate maps, and too few labels of objects."""
        flat, few = self.details.get("n_flat_maps"), self.details.get("n_object_labels")
        notes = [f"{flat} of {self.figure.n} maps are flat"] if flat else []
        if few is not None and few < self.details.get("minimum_object_labels", 1):
            notes.append(f"{few} labels of objects, {self.details.get('n_other_labels', 0)} others")
        return notes

    def clears(self, baseline: Estimate) -> bool | None:
        """Whether the whole interval is better than the whole interval of a baseline; None: there
        is nothing to compare.
        """
        by = lead(self.figure, baseline, higher_is_better=self.result.higher_is_better)
        return None if by is None else by > 0

    @property
    def rivals(self) -> dict[str, Estimate]:
        """The baselines to be cleared: those with data, without ceilings (what the best could
        reach) and probes (what a reader reaches that was shown the labels).
        """
        return {
            name: baseline
            for name, baseline in self.baselines.items()
            if not name.endswith(("ceiling", "probe")) and baseline.value is not None
        }

    @property
    def uncleared(self) -> list[str] | None:
        """The rivals that are not cleared; None where nothing can be said."""
        if self.figure.ci95 is None or not self.rivals:
            return None
        return [name for name, baseline in self.rivals.items() if not self.clears(baseline)]


def lead(own: Estimate, baseline: Estimate, *, higher_is_better: bool) -> float | None:
    """By how much the whole interval of `own` is better than the whole interval of a baseline: the
    distance of their nearer ends, negative where they overlap.

    A baseline without an interval counts as its value. None: there is nothing to compare.
    """
    if own.ci95 is None or baseline.value is None:
        return None
    low, high = baseline.ci95 or (baseline.value, baseline.value)
    return own.ci95[0] - high if higher_is_better else low - own.ci95[1]


def rows_of(results: Iterable[Result], metric: str) -> list[Row]:
    """The rows of one metric, in the order: block, t from 1 to 0, conditioning.

    Raises:
        UserError: a row whose cell lacks a coordinate.
    """
    rows = [Row.of(result) for result in results if result.metric == metric]
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
class MetricTable:
    """All rows of one name, as the page prints them; `asks` is the question of their metric."""

    metric: str
    asks: str
    unit: str
    higher_is_better: bool
    baselines: list[str]
    rows: list[Row]
    seeded: bool = False

    @property
    def seeds(self) -> str:
        """How many autoencoders of a cell the figures are of; "" where they are of none."""
        if not self.seeded:
            return ""
        counts = sorted({int(row.details.get(SEEDS, 1)) for row in self.rows})
        if counts == [1]:
            return "One SAE seed: the intervals leave out what another seed of the SAE does."
        shown = " or ".join(map(str, counts))
        return f"{shown} SAE seeds a cell: the intervals resample seeds and pictures."

    @property
    def has_details(self) -> bool:
        """Whether any row explains itself."""
        return any(row.details for row in self.rows)


def metric_tables(results: Sequence[Result], shows: Shows | None = None) -> list[MetricTable]:
    """One table a name of rows, in the order in which the names first appear."""
    tables = []
    for metric in dict.fromkeys(result.metric for result in results):
        rows = rows_of(results, metric)
        names = list(dict.fromkeys(name for row in rows for name in row.baselines))
        first, shown = rows[0].result, shows.of(metric) if shows else None
        asks = shown.title if shown else ""
        seeded = bool(shown and shown.seeded)
        about = metric, asks, first.unit, first.higher_is_better, names
        tables.append(MetricTable(*about, rows, seeded))
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
