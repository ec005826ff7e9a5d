"""What the results say of every claim, by one rule.

A claim is asked of every cell that was evaluated for it. At one cell, the figure stands beside the
strongest of its baselines: the one whose nearer end is hardest to beat. Ceilings and probes, which
were shown the answer, are no baselines.

- **The claim holds at a cell** where the whole 95 % interval of the figure is better than the whole
  interval of the strongest baseline. Where both were measured on the same cases, the interval of
  their difference decides: all of it must be better than 0.
- **The claim holds** where it holds at some cell, and **does not hold** where it holds at none. It
  is **undecided** where no cell has an interval and a baseline, and **not evaluated** without
  results. With many cells "some cell" comes easier, so at how many it holds stands beside it.
- Figures shown are those of the cell with the largest lead: the distance between the nearer ends of
  the two intervals, or the nearer end of the difference.

The paper's claims about interventions are judged in `diffusae.evaluation.three_stages`, where
"cannot" is a claim as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from diffusae.evaluation.result import Estimate
from diffusae.report.tables import HELD, Row, lead, plain, text_of

STUDY, PAPER = "this study", "the paper"


@dataclass(frozen=True)
class Case:
    """What one cell says of a claim.

    Attributes:
        place: the cell, such as "mid · t = 0.50 · cond".
        own: the figure that the claim is about.
        unit: of the figure.
        baseline: the name of the strongest baseline; "" where there is none.
        rival: its figure; None where only the difference is known.
        lead: by how much the figure is better; above 0 the claim holds here. None: not decided.
        difference: figure minus baseline on the same cases; None where they are not paired.
    """

    place: str
    own: Estimate
    unit: str
    baseline: str = ""
    rival: Estimate | None = None
    lead: float | None = None
    difference: Estimate | None = None


@dataclass(frozen=True)
class Verdict:
    """A claim and what its cells say. `holds` is None where it is undecided or not evaluated.

    Attributes:
        claim: a sentence.
        section: the anchor of the page's section that has the figures.
        by: whose claim it is.
    """

    claim: str
    section: str
    holds: bool | None
    cases: Sequence[Case]
    by: str = STUDY

    @property
    def best(self) -> Case | None:
        """The cell with the largest lead; None where nothing was evaluated."""
        return max(self.cases, key=_lead, default=None)

    @property
    def text(self) -> str:
        """The verdict in words."""
        if not self.cases:
            return "not evaluated"
        return HELD[self.holds]

    @property
    def count(self) -> str:
        """At how many cells there is a lead, such as "3 of 9 cells"."""
        ahead = sum(case.lead is not None and case.lead > 0 for case in self.cases)
        return f"{ahead} of {len(self.cases)} cell{'s' if len(self.cases) > 1 else ''}"


def _lead(case: Case) -> float:
    return float("-inf") if case.lead is None else case.lead


def judged(claim: str, section: str, cases: Iterable[Case]) -> Verdict:
    """The verdict of the rule above; cells without data are left out."""
    known = [case for case in cases if case.own.value is not None]
    leads = [case.lead for case in known if case.lead is not None]
    return Verdict(claim, section, any(by > 0 for by in leads) if leads else None, known)


def case_of(row: Row) -> Case:
    """A row beside the strongest of its baselines."""
    higher = row.result.higher_is_better
    leads = {
        name: by
        for name, rival in row.rivals.items()
        if (by := lead(row.figure, rival, higher_is_better=higher)) is not None
    }
    if not leads:
        return Case(row.place, row.figure, row.result.unit)
    name = min(leads, key=leads.__getitem__)
    return Case(
        row.place, row.figure, row.result.unit, plain(name), row.baselines[name], leads[name]
    )


@dataclass(frozen=True)
class Finding:
    """What the page leads with: a sentence on one claim's best cell."""

    text: str
    note: str
    holds: bool | None


def finding_of(verdicts: Sequence[Verdict]) -> Finding:
    """The first claim that holds, in the order of the page; where none holds, the first that was
    evaluated.
    """
    asked = [verdict for verdict in verdicts if verdict.cases]
    first = next((verdict for verdict in asked if verdict.holds), None) or next(iter(asked), None)
    if first is None or first.best is None:
        return Finding("Nothing was evaluated yet.", "", None)
    best = first.best
    text = f"{first.claim}: {first.text}. {best.place}: {best.unit} {text_of(best.own, 2)}"
    text += f", n = {best.own.counted}"
    if best.rival is not None:
        text += f"; {best.baseline} {text_of(best.rival, 2)}"
    if best.difference is not None:
        text += f"; minus {best.baseline}, on the same cases {text_of(best.difference, 2)}"
    held = sum(verdict.holds is True for verdict in asked)
    note = f"{held} of {len(asked)} claims hold. This one has its lead at {first.count}."
    return Finding(f"{text}.", note, first.holds)
