"""Sections without the page around them."""

from dataclasses import replace

from diffusae.report.page import CHARTS, SECTIONS, render_page
from diffusae.report.rendering import environment, rendered
from diffusae.report.study import FinishedStudy


def test_the_sections_of_the_report_are_in_it_as_they_are_rendered_alone(study: FinishedStudy):
    page = render_page(study)
    parts = rendered(study, SECTIONS)
    assert len(parts.sections) > 5
    assert all(text.strip() in page for _, text in parts.sections)
    assert parts.charts in page and parts.definitions in page


def test_some_sections_bring_the_charts_and_verdicts_of_these_alone(study: FinishedStudy):
    whole, some = rendered(study, SECTIONS), rendered(study, CHARTS)
    assert "concepts" in whole.anchors and "concepts" not in some.anchors
    assert [v.claim for v in some.verdicts] == [v.claim for v in whole.verdicts]
    assert 'id="chart-0"' in "".join(text for _, text in some.sections)


def test_no_section_has_a_style_or_a_script_of_its_own(intervened: FinishedStudy):
    """So a content policy without 'unsafe-inline' lets all of them be as they are."""
    text = "".join(text for _, text in rendered(intervened, SECTIONS).sections)
    assert "<svg" in text
    assert not [word for word in (" style=", "<style", "<script", " onclick=") if word in text]


def test_rows_of_figures_link_to_their_record_where_there_are_records(study: FinishedStudy):
    made = [replace(row, made_in=f"evaluation/{row.metric}/a b") for row in study.results]
    of_report, of_explorer = environment(), environment()
    of_explorer.globals["records"] = True
    texts = [
        "".join(text for _, text in rendered(replace(study, results=made), CHARTS, one).sections)
        for one in (of_report, of_explorer)
    ]
    assert "evaluation/" not in texts[0]
    assert 'href="../evaluation/composition/a%20b/"' in texts[1]
