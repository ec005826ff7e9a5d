import html
import logging
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from diffusae.evaluation.result import Result
from diffusae.report import page as module
from diffusae.report.page import render_page, write_report
from diffusae.report.rendering import duration, percent
from diffusae.report.study import (
    Concept,
    EditedPicture,
    Example,
    Examples,
    FinishedStudy,
    Picture,
    Prediction,
    Run,
    RunRow,
)
from report.rows import emerged, figure, measured, result, staged

MARKUP = "<script>alert('x')</script> & \"quoted\""
VOID = {"meta", "br", "link", "img"}


class Reader(HTMLParser):
    """Reads a page, and fails where an element is closed that is not the one that is open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def page(study: FinishedStudy) -> str:
    return render_page(study)


def lines_of_tables(page: str) -> list[str]:
    return [
        " ".join(re.sub(r"<[^>]*>", " ", row).split())
        for row in re.findall(r"<tr.*?</tr>", page, re.S)
    ]


def test_page_is_well_formed_and_every_id_is_unique_and_found(page: str) -> None:
    read = Reader(page)
    assert len(read.ids) == len(set(read.ids))
    referred = {
        value[1:]
        for _, attributes in read.elements
        for name, value in attributes.items()
        if name in ("href", "xlink:href") and value and value.startswith("#")
    }
    assert referred <= set(read.ids)


def test_every_picture_with_a_run_links_to_its_record_and_names_its_wandb_run(page: str) -> None:
    links = [
        (attributes["href"], attributes["title"])
        for tag, attributes in Reader(page).elements
        if tag == "a" and attributes.get("class") == "run"
    ]
    concept = "concepts/mid-t1.00-cond-k4/run.json"
    predicted = "evaluation/composition/mid-t1.00-cond-k4/run.json"
    assert set(links) == {
        ("../activations/run.json", "activations/run.json"),
        (f"../{concept}", f"{concept}, W&B run p/mini-mid-t100-cond-k4"),
        (f"../{predicted}", predicted),
    }
    # One picture of the sheet, one pair of the concept; the prediction's masks and its score map.
    assert len(links) == 4


def test_a_run_whose_name_is_no_address_is_quoted() -> None:
    assert Run("sae/a b#1").href == "../sae/a%20b%231/run.json"


def test_page_loads_nothing_from_elsewhere(page: str) -> None:
    for tag, attributes in Reader(page).elements:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "srcset", "data", "action") and value:
                allowed = (
                    ("#", "data:image/") if tag != "a" else ("#", "https://arxiv.org/abs/", "../")
                )
                assert value.startswith(allowed), (tag, name, value[:60])
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert "default-src 'none'" in page


def test_text_from_outside_is_escaped_wherever_it_appears(study: FinishedStudy) -> None:
    image = study.contact_sheet[0].image
    scores = np.zeros((2, 2))
    mask = np.ones((8, 8), dtype=bool)
    key = (MARKUP, MARKUP, 1.0, MARKUP)
    hostile = FinishedStudy(
        name=MARKUP,
        model=MARKUP,
        facts={MARKUP: MARKUP},
        contact_sheet=[Picture(MARKUP, image, MARKUP)],
        results=[
            replace(
                result(
                    MARKUP,
                    1.0,
                    MARKUP,
                    figure(0.5, (0.4, 0.6), 3),
                    baselines={MARKUP: figure(0.1, None, 1)},
                ),
                unit=MARKUP,
                metric=metric,
                details={MARKUP: MARKUP},
            )
            for metric in ("composition", "dead_fraction", MARKUP)
        ],
        emergence=[
            emerged(
                MARKUP,
                MARKUP,
                {1.0: 0.1, 0.0: 0.2},
                figure(0.5, (0.4, 0.6), 3),
                readers={MARKUP: figure(0.1, None, 1)},
                tag=MARKUP,
            )
        ],
        three_stages=[
            staged(
                MARKUP,
                figure(0.5, (0.4, 0.6), 3),
                window=MARKUP,
                block=MARKUP,
                tag=MARKUP,
                unit=MARKUP,
                controls={MARKUP: figure(0.1, None, 1)},
                differences={MARKUP: figure(0.4, None, 1)},
                standing={MARKUP: "better"},
            )
        ],
        examples=[
            Examples(
                MARKUP,
                MARKUP,
                (1.0, 0.6),
                [MARKUP],
                0.8,
                MARKUP,
                MARKUP,
                [Example(MARKUP, MARKUP, [EditedPicture(MARKUP, 1.0, True, image)])],
                Run(MARKUP, MARKUP),
            )
        ],
        predictions=[
            Prediction(MARKUP, image, [MARKUP], {MARKUP: mask}, {key: (scores, mask)}, {key: 0.5})
        ],
        concepts=[
            Concept(
                MARKUP,
                MARKUP,
                1.0,
                MARKUP,
                1,
                [(MARKUP, 1)],
                1.0,
                0.1,
                [(image, scores)],
                steer=MARKUP,
            )
        ],
        runs=[RunRow(MARKUP, MARKUP, MARKUP, 1.0, MARKUP)],
    )
    text = render_page(hostile)
    assert "<script>alert" not in text
    read = Reader(text)
    # The page's own: the charts' data, their library and the page's script.
    assert [tag for tag, _ in read.elements].count("script") == 3
    assert MARKUP in read.text
    captions = [
        attributes["aria-label"]
        for tag, attributes in read.elements
        if tag == "svg" and "aria-label" in attributes
    ]
    assert MARKUP in captions


def test_every_number_of_the_rows_is_on_the_page(page: str, results: list[Result]) -> None:
    text = Reader(page).text
    for row in results:
        for estimate in (row.estimate, *row.baselines.values()):
            if estimate.value is not None:
                assert f"{estimate.value:.3f}" in text
                assert str(estimate.n) in text
            if estimate.ci95 is not None:
                assert f"[{estimate.ci95[0]:.3f}, {estimate.ci95[1]:.3f}]" in text


def test_a_row_of_the_table_holds_its_own_cell_and_figures(page: str) -> None:
    rows = lines_of_tables(page)
    assert "up 0.00 cond 0.612 [0.581, 0.648] 91 0.140 [0.120, 0.160] n = 80 none" in rows
    assert "mid 0.50 uncond no data 0 0.140 [0.120, 0.160] n = 80 –" in rows
    assert "mid 1.00 cond 0.062 64" in rows


def test_emergence_has_its_chart_and_every_figure_of_its_row(page: str) -> None:
    text = Reader(page).text
    assert 'id="emergence"' in page
    assert "IoU over t of mid · cond" in page
    assert "stays above 90 % of its value" in text
    rows = lines_of_tables(page)
    assert (
        "mid cond k10 0.246 [0.213, 0.280] between 0.50 and 0.00 83 0.152 [0.102, 0.202] 0.374"
        " [0.324, 0.424] 0.200 [0.100, 0.300] 0.140 [0.120, 0.160] 0.579 [0.518, 0.629]" in rows
    )


def test_a_curve_that_hardly_rises_is_marked(study: FinishedStudy) -> None:
    row = emerged("mid", "cond", {1.0: 0.2, 0.0: 0.2}, figure(1.0, (0.1, 1.0), 9), rise=(-0.1, 0.1))
    assert "not above 0" in Reader(render_page(replace(study, emergence=[row]))).text
    assert "not above 0" not in Reader(render_page(study)).text


def test_a_grid_without_a_curve_has_no_section_of_emergence(study: FinishedStudy) -> None:
    page = render_page(replace(study, emergence=[]))
    assert 'id="emergence"' not in page
    assert 'href="#emergence"' not in page


def test_interventions_have_a_line_each_with_the_concepts_lead_over_every_control(
    intervened: FinishedStudy,
) -> None:
    page = render_page(intervened)
    assert 'href="#interventions"' in page
    assert "Success of spatial edits by window" in page
    assert "Change of the picture of spatial edits by window" in page
    assert (
        "early 1 ≥ t ≥ 0.6 spatial down t = 0.80 · cond · k10 0.95 [0.85, 1.00] 20 "
        "0.25 ▲ +0.69 [+0.50, +0.90] 0.31 ? +0.03 [-0.20, +0.30] – 0.05 [0.04, 0.07]"
        in lines_of_tables(page)
    )


def test_every_method_of_an_intervention_has_all_its_figures(intervened: FinishedStudy) -> None:
    rows = lines_of_tables(render_page(intervened))
    place = "early spatial down · t = 0.80 · cond"
    assert f"{place} concepts 3 0.946 [0.850, 1.000] n = 20 0.054 [0.040, 0.070] n = 20" in rows
    assert f"{place} no edit – 0.251 [0.100, 0.400] n = 24 –" in rows
    assert f"{place} random latent 1 0.313 [0.200, 0.500] n = 24 –" in rows


def test_pictures_before_and_after_carry_their_outcome_and_link_to_their_run(
    intervened: FinishedStudy,
) -> None:
    page = render_page(intervened)
    section = page[page.index('id="interventions"') : page.index('id="grid"')]
    assert lines_of_tables(section)[-1] == "fish to top left a blue fish before ✓ × 3 ✗ × 1"
    record = "evaluation/spatial/down-t0.80-cond-k10/run.json"
    link = (
        f'<a class="run" href="../{record}" title="{record}, W&amp;B run'
        ' p/mini-down-t080-cond-k10">'
    )
    assert section.count(link) == 3
    for caption in ("no edit", "concepts x 3, reached", "random latent x 1, not reached"):
        assert f'aria-label="fish to top_left: {caption}"' in section


def test_a_study_without_interventions_has_no_section_and_no_definitions_of_them(page: str) -> None:
    assert 'id="interventions"' not in page
    assert 'href="#interventions"' not in page
    assert "Target reached" not in page and "Strength that suffices" not in page


def test_the_grid_has_a_heat_map_of_every_success_and_the_section_their_tables(
    intervened: FinishedStudy,
) -> None:
    metrics = ("spatial_success", "spatial_rest_changed", "style_rose_together")
    rows = [
        result("down", 0.8, "cond", figure(0.7391, (0.6, 0.8), 9), metric=metric)
        for metric in metrics
    ]
    page = render_page(measured(replace(intervened, results=[*intervened.results, *rows])))
    grid, section = (
        page[page.index('id="grid"') :],
        page[page.index('id="interventions"') : page.index('id="grid"')],
    )
    titles = re.findall(r'class="chart-title">([^<]*)<', grid)
    assert "Spatial interventions: success" in titles
    assert "Style, blocks together: score rose" in titles
    assert "Spatial interventions: change of the rest" not in titles
    assert section.count("0.739") == 3
    assert "Spatial rest changed of every cell (" in section


def test_a_second_embedding_has_its_own_chart_and_table_in_the_section_of_quality(
    study: FinishedStudy,
) -> None:
    rows = [
        result("mid", 1.0, "cond", figure(value, None, 40), metric=metric)
        for metric, value in (("cohesion", 0.8123), ("cohesion_text_encoder", 0.4567))
    ]
    page = render_page(measured(replace(study, results=[*study.results, *rows])))
    section = page[page.index('id="quality"') : page.index('id="prompts"')]
    titles = re.findall(r'class="chart-title">([^<]*)<', section)
    assert len(titles) == 2
    assert "Cohesion, in the model&#39;s own text space" in titles
    assert "Cohesion text encoder of every cell" in section
    tables = section.split("<details>")[1:]
    assert not any("0.812" in table and "0.457" in table for table in tables)


def test_the_page_leads_with_the_best_cell_of_the_first_claim_that_holds(page: str) -> None:
    text = Reader(page).text
    assert (
        "✓ Concepts predict where each noun will be: holds. up · t = 0.00 · cond: IoU 0.61 [0.58,"
        " 0.65], n = 91; chance 0.14 [0.12, 0.16]." in text
    )
    assert "This one has its lead at 2 of 2 cells." in text


def test_every_claim_has_a_line_with_its_value_interval_n_and_strongest_baseline(
    intervened: FinishedStudy,
) -> None:
    page = render_page(intervened)
    lines = lines_of_tables(page[: page.index("<nav")])
    assert (
        "Concepts predict where each noun will be, at the first moment already (t = 1.00) ✓ holds"
        " 1 of 1 cell 0.313 [0.282, 0.343] IoU 87 chance 0.14 [0.12, 0.16] mid · t = 1.00 · cond"
        in lines
    )
    assert (
        "Concepts move an object to another place ✗ does not hold 0 of 1 cell 0.946 [0.850, 1.000]"
        " success 20 random latent 0.31 [0.20, 0.50] difference +0.03 [-0.20, +0.30] early, down ·"
        " t = 0.80 · cond" in lines
    )
    assert "Concepts bring in a style" in Reader(page).text.split("Not evaluated:")[1]


def test_an_empty_study_says_no_data_in_every_section() -> None:
    text = Reader(render_page(FinishedStudy("empty", "tiny"))).text
    assert text.count("No data:") == 6
    assert "Nothing was evaluated yet." in text


def test_results_without_any_value_are_shown_as_no_data() -> None:
    rows = [result("mid", 1.0, "cond", figure(None), baselines={"chance": figure(None)})]
    text = Reader(render_page(FinishedStudy("nothing", "tiny", results=rows))).text
    assert "Nothing was evaluated yet." in text
    assert "mid 1.00 cond no data 0 no data n" not in text  # equal counts are not repeated


def test_a_noun_without_mask_and_a_missing_iou_are_no_data(page: str) -> None:
    text = Reader(page).text
    assert "dog (not found by the annotator: no data)" in text
    assert "no data cat" in text  # uncond, t = 0: predicted, but without IoU
    assert text.count("0.46 cat") == 6  # three masks, and the score maps behind them


def test_panels_run_from_the_first_step_to_the_last_and_only_cond_is_unfolded(page: str) -> None:
    section = page[page.index('id="prompts"') : page.index('id="concepts"')]
    first = section[: section.index("<details>")]
    assert re.findall(r"t = (\d\.\d\d)</th>", first) == ["1.00", "0.00"]
    assert "mid, cond, t = 1.00: cat IoU 0.46" in first
    assert "uncond" not in first
    assert "mid, uncond, t = 1.00: cat IoU 0.46" in section


def test_a_concept_shows_labels_purity_frequency_and_its_pictures(page: str) -> None:
    words = Reader(page).text
    assert "latent 412 · purity 89 % · active at 2.1 % of positions" in words
    assert "latent 7 · purity no data · active at 0 % of positions" in words
    assert "no labels" in words
    assert "active in no picture" in words
    assert 'aria-label="where latent 412 is active in top picture 1"' in page


def test_every_latent_has_an_anchor_with_a_link_and_a_command_to_copy(study: FinishedStudy) -> None:
    first, other = study.concepts
    steered = replace(study, concepts=[replace(first, steer="diffusae steer 'concept=cat'"), other])
    page = render_page(steered)
    for concept in study.concepts:
        assert page.count(f'id="{concept.anchor}"') == 1
        assert f'<a href="#{concept.anchor}"' in page
    assert "<code>diffusae steer &#39;concept=cat&#39;</code>" in page
    assert page.count('class="copy"') == 1


def test_nouns_whose_masks_overlap_have_a_picture_of_their_own(study: FinishedStudy) -> None:
    (prediction,) = study.predictions
    left, right = np.zeros((2, 8, 8), dtype=bool)
    left[:, :5], right[:, 5:] = True, True

    def drawings(other: np.ndarray) -> int:
        masks = {"cat": left, "dog": other}
        predicted = {
            ("mid", "cond", 1.0, noun): (np.zeros((2, 2)), mask) for noun, mask in masks.items()
        }
        page = render_page(
            replace(study, predictions=[replace(prediction, predicted=predicted, iou={})])
        )
        return page.count('aria-label="mid, cond, t = 1.00: ')

    assert drawings(right) == 1
    right[:, 4] = True
    assert drawings(right) == 2


def test_unfinished_runs_are_named(page: str) -> None:
    assert "2 runs, 1 not finished: train mid-t1.00-cond (failed)." in Reader(page).text


def test_a_page_of_a_study_that_goes_on_says_what_is_finished(study: FinishedStudy) -> None:
    note = "The study was going on when this page was written"
    assert note not in render_page(study)
    early = render_page(replace(study, so_far="1 of 18 cells"))
    assert f"{note}</b>: 1 of 18 cells so far." in early


def test_the_same_study_gives_the_same_page(study: FinishedStudy) -> None:
    assert render_page(study) == render_page(study)


def test_write_report_puts_the_page_in_place_whole(study: FinishedStudy, tmp_path: Path) -> None:
    target = tmp_path / "report" / "index.html"
    write_report(target, study)
    assert target.read_text(encoding="utf-8") == render_page(study)
    assert [path.name for path in target.parent.iterdir()] == ["index.html"]


def test_a_failing_render_leaves_the_old_page(study: FinishedStudy, tmp_path: Path) -> None:
    target = tmp_path / "index.html"
    target.write_text("old")
    with pytest.raises(ValueError, match="incomplete"):
        write_report(target, replace(study, results=[replace(study.results[0], cell={})]))
    assert target.read_text() == "old"


def test_a_heavy_page_is_warned_about(
    study: FinishedStudy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "HEAVY", 1000)
    with caplog.at_level(logging.WARNING):
        write_report(tmp_path / "index.html", study)
    assert "show fewer concepts or predictions" in caplog.text


def test_quotes_in_captions_survive_as_text(study: FinishedStudy) -> None:
    caption = 'it\'s "<b>" & co'
    shown = render_page(
        replace(study, contact_sheet=[Picture(caption, study.contact_sheet[0].image)])
    )
    assert html.escape(caption).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.42, "0.4 s"),
        (42.4, "42 s"),
        (59.7, "1 min 00 s"),
        (200.4, "3 min 20 s"),
        (7500.0, "2 h 05 min"),
    ],
)
def test_durations_are_read_easily(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "no data"),
        (float("nan"), "no data"),
        (0.0, "0 %"),
        (0.0213, "2.1 %"),
        (0.886, "89 %"),
        (1.0, "100 %"),
    ],
)
def test_shares_are_shown_as_percent(share: float | None, text: str) -> None:
    assert percent(share) == text


def test_the_section_of_quality_is_there_only_with_its_results(study: FinishedStudy) -> None:
    assert "quality" not in Reader(render_page(study)).ids
    rows = [
        result("mid", 1.0, "cond", figure(0.8123, (0.7, 0.9), 40), metric="cohesion"),
        result("mid", 1.0, "cond", figure(None), metric="stability"),
    ]
    read = Reader(render_page(measured(replace(study, results=[*study.results, *rows]))))
    assert "quality" in read.ids
    assert "0.812" in read.text
    assert read.text.count("Cohesion of every cell") == 1
