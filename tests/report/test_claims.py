"""The report leads with the verdicts on registered claims."""

import re
from dataclasses import replace

from diffusae.evaluation.claims import Claim, ClaimCell, Other, Verdict
from diffusae.report.page import render_page
from diffusae.report.study import FinishedStudy
from diffusae.summaries.claims import Judgement

CLAIM = Claim(
    "An <object> can be moved", "spatial", "success", ClaimCell("mid", 1.0, "cond"),
    {"no_edit": Other()}, "more", 0.1, "sign_flip",
)  # fmt: skip
HOLDS = Verdict(
    "moved", CLAIM, "holds", "no_edit", 0.4321, (0.31, 0.55), 50, 200, 0.0001, 0.0004, 1.0, 1.0
)
JUDGED = Judgement(
    name="own",
    source="us",
    alpha=0.05,
    verdicts=[
        HOLDS,
        replace(HOLDS, name="b", state="undecided", pictures_needed=340),
        Verdict("c", CLAIM, "not evaluated", note="no dictionary"),
    ],
    signature="0123abcd",
    registered="2031-02-03T04:05:06+00:00",
    git_commit="fedcba9876543210",
)


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_the_page_leads_with_all_verdicts_and_when_they_were_registered(study: FinishedStudy):
    page = render_page(replace(study, judgement=JUDGED))
    assert JUDGED.scope in page
    sections = re.findall(r'<section id="(\w+)"', page)
    assert sections[0] == "claims"
    text = text_of(page)
    assert "1 of 3 claims hold, 0 fail, 1 is undecided, 1 is not evaluated." in text
    for part in (
        "registered on 2031-02-03T04:05:06+00:00 (0123abcd, commit fedcba987654)",
        "✓ holds +0.432 [+0.310, +0.550] success more than no_edit; hardest: no_edit 50 (200)",
        "0.0001 0.0004",
        "? undecided (about 340 pictures would decide it)",
        "– not evaluated: no dictionary",
    ):
        assert part in text
    assert "An &lt;object&gt; can be moved" in page
    assert "stale" not in text


def test_a_stale_result_is_called_so_in_the_headline_and_in_the_section(study: FinishedStudy):
    text = text_of(render_page(replace(study, judgement=replace(JUDGED, changed=True))))
    assert text.count("this result is stale") == 2


def test_claims_that_are_not_registered_take_nothing_from_the_headline(study: FinishedStudy):
    unregistered = replace(JUDGED, registered=None)
    page = render_page(replace(study, judgement=unregistered))
    text = text_of(page)
    assert "3 claims of us are stated and not registered yet" in text
    assert "Concepts predict where each noun will be" in text.split("Is it true?")[0]
    assert "claims" not in re.findall(r'<section id="(\w+)"', render_page(study))
