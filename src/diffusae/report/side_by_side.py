"""Several studies side by side on one page: when their models decide, what their concepts cause,
and whether the paper's claims about the three stages hold for each.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from diffusae.errors import UserError
from diffusae.evaluation.claims import Verdict
from diffusae.evaluation.result import Result, load_results
from diffusae.files import atomic_path, atomic_write_json
from diffusae.masking import masked
from diffusae.report import vega
from diffusae.report.decisions import METRIC as DECISIONS
from diffusae.report.decisions import Decision, curves, decisions_of
from diffusae.report.rendering import HERE, environment
from diffusae.report.tables import HELD
from diffusae.report.three_stages import Line, lines_of
from diffusae.runs.survey import finished_runs
from diffusae.study.study import Study
from diffusae.summaries.claims import judgement_of
from diffusae.summaries.registration import Registered
from diffusae.summaries.three_stages import STAGE as THREE_STAGES

COMPOSITION = "composition"


@dataclass(frozen=True)
class Member:
    """What is finished of one study.

    Attributes:
        name: of its directory.
        page: its own report, from the common page; "" where there is none.
        verdicts: on the registered claims, by name; empty where none were judged.
        lines: of that table.
        composition: one row a cell.
    """

    name: str
    page: str
    verdicts: Mapping[str, Verdict]
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
            _judged(own),
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
        """Whether all claims about the three stages hold; False: some fail; None: not known."""
        states = [verdict.state for verdict in self._of_stages]
        if "fails" in states:
            return False
        return True if states and set(states) == {"holds"} else None

    @property
    def law_text(self) -> str:
        """The same in words, such as "undecided. Of 7 claims: 4 hold, 0 fail, 3 undecided"."""
        states = [verdict.state for verdict in self._of_stages]
        if not states:
            return "not evaluated"
        holds, fails = states.count("holds"), states.count("fails")
        counts = f"{holds} hold, {fails} fail, {len(states) - holds - fails} undecided"
        return f"{HELD[self.law]}. Of {len(states)} claims: {counts}"

    @property
    def _of_stages(self) -> list[Verdict]:
        """The verdicts on what can be changed in a window of t."""
        return [one for one in self.verdicts.values() if one.claim.window is not None]


def _judged(study: Study) -> dict[str, Verdict]:
    """The verdicts that the study's `diffusae claims` wrote, {} where it did not run."""
    if study.kind != "generation":
        return {}
    judgement = judgement_of(Registered.of(study))
    if judgement.registered is None:
        return {}
    return {verdict.name: verdict for verdict in judgement.verdicts}


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
            "claims": [asdict(verdict) for verdict in member.verdicts.values()],
            "decisions": [asdict(decision) for decision in member.decisions],
            "composition": [row.to_json() for row in member.composition],
        }
        for member in members
    }
    atomic_write_json(page.with_suffix(".json"), figures)


def shown(members: Sequence[Member], book: vega.ChartBook) -> dict[str, Any]:
    """What `side_by_side_parts.html.j2` needs; its chart is in the book."""
    named = [replace(one, placement=name) for name, one in _decided(members)]
    drawn = None
    if named:
        alt = "The share of pictures that show the new value, over the t of the exchange, by study"
        drawn = book.chart(curves(named, title="study"), alt=alt)
    return {
        "members": members,
        "claims": list(_claims(members)),
        "decided": list(_decided(members)),
        "curves": drawn,
        "staged": [(member, line) for member in members for line in member.lines],
        "composition": [(member, row) for member in members for row in member.composition],
    }


def render(title: str, members: Sequence[Member]) -> str:
    """The page as HTML; the same studies give the same text."""
    charts = vega.ChartBook()
    values = shown(members, charts)
    page = environment().get_template("side_by_side.html.j2")
    text = page.render(title=title, **values, charts=charts.data)
    script = (HERE / "page.js").read_text(encoding="utf-8")
    library = f"<script>{vega.library()}</script>\n" if charts.data else ""
    return f"{masked(text)}{library}<script>{script}</script>\n</body>\n</html>\n"


def _placed(member: Member, decision: Decision) -> str:
    """A line's name: the study, and the place of its steps where it has several."""
    several = len({one.placement for one in member.decisions}) > 1
    return f"{member.name} ({decision.placement})" if several else member.name


def _claims(members: Sequence[Member]) -> Iterator[tuple[Verdict, list[Verdict | None]]]:
    """Every claim with the verdict of each study."""
    for name in dict.fromkeys(name for member in members for name in member.verdicts):
        verdicts = [member.verdicts.get(name) for member in members]
        yield next(one for one in verdicts if one is not None), verdicts


def _decided(members: Sequence[Member]) -> Iterator[tuple[str, Decision]]:
    """The decisions of all studies, attribute by attribute."""
    attributes = dict.fromkeys(one.attribute for member in members for one in member.decisions)
    for attribute in attributes:
        for member in members:
            for one in member.decisions:
                if one.attribute == attribute:
                    yield _placed(member, one), one
