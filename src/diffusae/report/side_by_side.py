"""Several studies side by side on one page: when their models decide, what their concepts cause,
and whether the paper's claims about the three stages hold for each.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from diffusae.errors import UserError
from diffusae.evaluation.result import Result, load_results
from diffusae.evaluation.three_stages import Answer
from diffusae.files import atomic_path, atomic_write_json
from diffusae.masking import masked
from diffusae.report import vega
from diffusae.report.decisions import METRIC as DECISIONS
from diffusae.report.decisions import Decision, curves, decisions_of
from diffusae.report.page import HERE, environment
from diffusae.report.tables import HELD
from diffusae.report.three_stages import Line, answer_text, evidence, lines_of
from diffusae.runs.survey import finished_runs
from diffusae.study.study import Study
from diffusae.summaries.three_stages import STAGE as THREE_STAGES
from diffusae.summaries.three_stages import claims_in

COMPOSITION = "composition"


@dataclass(frozen=True)
class Member:
    """What is finished of one study.

    Attributes:
        name: of its directory.
        page: its own report, from the common page; "" where there is none.
        answers: to the paper's claims; empty without a three-stage table.
        lines: of that table.
        composition: one row a cell.
    """

    name: str
    page: str
    answers: Sequence[Answer]
    lines: Sequence[Line]
    decisions: Sequence[Decision]
    composition: Sequence[Result]

    @classmethod
    def of(cls, study: Study, directory: str, page: Path) -> Member:
        """Read a study's directory.

        Raises:
            UserError: it has no finished result, or a damaged one.
        """
        cfg = copy.deepcopy(study.cfg)
        cfg.paths.experiment = directory
        own = Study(cfg)
        staged = list(_results(own, THREE_STAGES, "."))
        member = cls(
            own.directory.name,
            _link(own.directory / "report" / "index.html", page),
            claims_in(own),
            lines_of(staged),
            decisions_of(_results(own, DECISIONS)),
            [row for row in _results(own, COMPOSITION) if row.metric == COMPOSITION],
        )
        if not (member.lines or member.decisions or member.composition):
            raise UserError(
                f"{directory} has no finished result of {COMPOSITION}, {DECISIONS} or"
                " interventions; run the study first"
            )
        return member

    @property
    def law(self) -> bool | None:
        """Whether all claims about the three stages hold; False: some do not; None: not known."""
        held = [answer.holds for answer in self.answers]
        return False if False in held else None if None in held or not held else True

    @property
    def law_text(self) -> str:
        """The same in words, such as "undecided. Of 7 claims: 4 true, 0 false, 3 undecided"."""
        if not self.answers:
            return "not evaluated"
        held = [answer.holds for answer in self.answers]
        true, false, open_ = (held.count(state) for state in (True, False, None))
        counts = f"{true} true, {false} false, {open_} undecided"
        return f"{HELD[self.law]}. Of {len(held)} claims: {counts}"


def _results(study: Study, metric: str, pattern: str = "*") -> Iterator[Result]:
    for directory, _ in finished_runs(study.directory / "evaluation" / metric, pattern):
        yield from load_results(directory / "results.json")


def _link(target: Path, page: Path) -> str:
    return os.path.relpath(target, page.parent) if target.is_file() else ""


def write_side_by_side(page: Path, title: str, members: Sequence[Member]) -> None:
    """Write the page, and its figures as JSON beside it, atomically."""
    with atomic_path(page) as temporary:
        temporary.write_text(render(title, members), encoding="utf-8")
    figures = {
        member.name: {
            "law_holds": member.law,
            "claims": [asdict(answer) for answer in member.answers],
            "decisions": [asdict(decision) for decision in member.decisions],
            "composition": [row.to_json() for row in member.composition],
        }
        for member in members
    }
    atomic_write_json(page.with_suffix(".json"), figures)


def render(title: str, members: Sequence[Member]) -> str:
    """The page as HTML; the same studies give the same text."""
    charts = vega.ChartBook()
    named = [replace(one, placement=name) for name, one in _decided(members)]
    drawn = None
    if named:
        alt = "The share of pictures that show the new value, over the t of the exchange, by study"
        drawn = charts.chart(curves(named, title="study"), alt=alt)
    text = (
        environment()
        .get_template("side_by_side.html.j2")
        .render(
            title=title,
            members=members,
            claims=list(_claims(members)),
            decided=list(_decided(members)),
            curves=drawn,
            staged=[(member, line) for member in members for line in member.lines],
            composition=[(member, row) for member in members for row in member.composition],
            answer_text=answer_text,
            evidence=evidence,
            charts=charts.data,
        )
    )
    script = (HERE / "page.js").read_text(encoding="utf-8")
    library = f"<script>{vega.library()}</script>\n" if charts.data else ""
    return f"{masked(text)}{library}<script>{script}</script>\n</body>\n</html>\n"


def _placed(member: Member, decision: Decision) -> str:
    """A line's name: the study, and the place of its steps where it has several."""
    several = len({one.placement for one in member.decisions}) > 1
    return f"{member.name} ({decision.placement})" if several else member.name


def _claims(members: Sequence[Member]) -> Iterator[tuple[Answer, list[Answer | None]]]:
    """Every claim with the answer of each study."""
    keys = dict.fromkeys(_key(answer) for member in members for answer in member.answers)
    for key in keys:
        answers = [
            next((one for one in member.answers if _key(one) == key), None) for member in members
        ]
        first = next(one for one in answers if one is not None)
        yield first, answers


def _key(answer: Answer) -> tuple[str, str]:
    return answer.window, answer.edit


def _decided(members: Sequence[Member]) -> Iterator[tuple[str, Decision]]:
    """The decisions of all studies, attribute by attribute."""
    attributes = dict.fromkeys(one.attribute for member in members for one in member.decisions)
    for attribute in attributes:
        for member in members:
            for one in member.decisions:
                if one.attribute == attribute:
                    yield _placed(member, one), one
