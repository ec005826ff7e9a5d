"""What a card says for programs: one line of JSON in its front matter, `diffusae: {...}`, with the
cell, the sizes and the measured figures. Cards of others are read with limits, and give data alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from diffusae.errors import UserError
from diffusae.evaluation.result import Estimate, Result
from diffusae.parsing import json_value, typed

KEY = "diffusae: "
VERSION = 1
MOST_CHARACTERS = 1 << 16
"""Of the line; ours have some 1,000."""
LONGEST_TEXT = 200
_MARKS = re.compile(r"[<>&`$|!()*~#]")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured value, as `Result` has it."""

    metric: str
    unit: str
    higher_is_better: bool
    value: float | None
    ci95: tuple[float, float] | None
    n: int
    clusters: int | None

    def __post_init__(self) -> None:
        Estimate(self.value, self.ci95, self.n, self.clusters)  # refuses what does not fit

    @classmethod
    def of(cls, result: Result) -> Figure:
        """The figure of a result."""
        estimate = asdict(result.estimate)
        return cls(
            metric=result.metric,
            unit=result.unit,
            higher_is_better=result.higher_is_better,
            **estimate,
        )


@dataclass(frozen=True, kw_only=True)
class CardSummary:
    """Where an autoencoder belongs, its sizes, and what was measured on it."""

    version: int
    model: str
    block: str
    hookpoint: str
    t: float
    conditioning: str
    d_in: int
    d_sae: int
    sparsity: str
    results: tuple[Figure, ...]

    def line(self) -> str:
        """The line of the front matter, in which nothing is markup."""
        value = {
            name: entry[:LONGEST_TEXT] if isinstance(entry, str) else entry
            for name, entry in asdict(self).items()
        }
        return KEY + _MARKS.sub(_escaped, json.dumps(value))


def summary_in(card: str) -> CardSummary | None:
    """The summary in a card's front matter; None where there is none, or one that is damaged."""
    front, _, _ = card.removeprefix("---\n").partition("\n---\n")
    line = next((line for line in front.split("\n") if line.startswith(KEY)), None)
    if not card.startswith("---\n") or line is None or len(line) > MOST_CHARACTERS:
        return None
    try:
        value: Mapping[str, Any] = json_value(line.removeprefix(KEY))
        summary = typed(CardSummary, value)
    except UserError:
        return None
    return summary if summary.version == VERSION else None


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
