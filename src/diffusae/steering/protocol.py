"""Tune, choose, test: the strengths of edits are chosen on one split, and the figures come from
another.

    1. tune    every strength of every method, on the prompts of the split `tune`;
    2. choose  for each method, the strength with the best score; of equal ones the weakest;
    3. test    the chosen strengths (or all of them), on the prompts of the split `test`.

No edited picture of the split `test` is made before the choice, and nothing that is found in its
pictures is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

Split = Literal["tune", "test"]


class Judged(Protocol):
    """What an edit made of one case."""

    @property
    def strength(self) -> float: ...


M = TypeVar("M", bound=Hashable)
"""What gets a strength of its own, such as a method."""
O = TypeVar("O", bound=Judged)  # noqa: E741

Strengths = Mapping[M, Sequence[float]]
"""The strengths to try, by method."""


@dataclass(frozen=True)
class Tested(Generic[M, O]):
    """The outcomes of both splits, and what was chosen between them.

    Attributes:
        tuned, tested: the outcomes, in the order in which they were made.
        scores: of every method and strength, on the split `tune`.
        best: the chosen strength of every method.
    """

    tuned: Sequence[O]
    tested: Sequence[O]
    scores: Mapping[M, Mapping[float, float]]
    best: Mapping[M, float]

    def splits(self) -> dict[str, Sequence[O]]:
        """The outcomes by split."""
        return {"tune": self.tuned, "test": self.tested}


def tune_choose_test(
    outcomes: Callable[[Split, Strengths[M]], Sequence[O]],
    strengths: Strengths[M],
    *,
    method: Callable[[O], M | None],
    score: Callable[[Sequence[O]], float],
    test_all: bool = False,
) -> Tested[M, O]:
    """Carry the protocol out.

    Args:
        outcomes: makes the edited pictures of a split at these strengths, and judges them.
        strengths: to be tried.
        method: of an outcome; None: it takes no part in the choice, such as an unedited picture.
        score: of the outcomes of one method at one strength, none included; higher = better.
        test_all: test every strength, not only the chosen ones.
    """
    tuned = outcomes("tune", strengths)
    scores = {
        name: {
            strength: score([o for o in tuned if method(o) == name and o.strength == strength])
            for strength in tried
        }
        for name, tried in strengths.items()
    }
    best = {name: best_strength(by_strength) for name, by_strength in scores.items()}
    chosen = strengths if test_all else {name: [strength] for name, strength in best.items()}
    return Tested(tuned, outcomes("test", chosen), scores, best)


def best_strength(scores: Mapping[float, float]) -> float:
    """The strength with the highest score; of equal ones the weakest edit."""
    return max(scores, key=lambda strength: (scores[strength], -abs(strength)))
