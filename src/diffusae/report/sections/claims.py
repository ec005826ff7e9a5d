"""Is it true? The verdicts on claims that were registered before they were looked at."""

from __future__ import annotations

from diffusae.report.gathering import Source
from diffusae.report.sections import Books, Section, View
from diffusae.report.study import FinishedStudy
from diffusae.summaries.claims import cells_of, judgement_of
from diffusae.summaries.registration import Registered

MARKS = {"holds": ("yes", "✓"), "fails": ("no", "✗"), "undecided": ("open", "?")}


def gather(source: Source) -> dict[str, object]:
    """The verdicts of a study of generated pictures."""
    if source.study.kind != "generation":
        return {}
    return {"judgement": judgement_of(Registered.of(source.study))}


def view(study: FinishedStudy, _: Books) -> View | None:
    """A line for every claim, also those without data."""
    if study.judgement is None:
        return None
    lines = [
        (*MARKS.get(verdict.state, ("open", "–")), verdict.name, cells_of(verdict))
        for verdict in study.judgement.verdicts
    ]
    return {"judgement": study.judgement, "lines": lines}


SECTION = Section("claims", "Claims", view, gather)
