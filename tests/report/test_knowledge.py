"""What the page makes of accuracies: which cell is best, which baselines are cleared, and the
figure.
"""

from dataclasses import replace

import pytest

from diffusae.errors import UserError
from diffusae.report.charts import knowledge
from diffusae.report.dashboard import KNOWLEDGE_COLUMNS, knowledge_rows
from diffusae.report.knowledge import READERS, answers_of, by_task
from diffusae.report.page import render_page
from diffusae.report.sections.knowledge import verdicts
from diffusae.report.study import FinishedStudy
from report.rows import data_of, figure, measured, result

BASELINES = {"majority": figure(0.2, (0.15, 0.25), 100), "pixels": figure(0.4, (0.3, 0.5), 100)}


def read(task, reader, block, t, value, *, tune, random=None):
    """A row as `diffusae.evaluation.knowledge.knowledge_row` makes it; the interval is 0.1 wide."""
    own = figure(None) if value is None else figure(value, (value - 0.05, value + 0.05), 100)
    beside = dict(BASELINES)
    if random is not None:
        beside["random_weights"] = figure(random, (random - 0.05, random + 0.05), 100)
    row = result(block, t, "uncond", own, metric=f"accuracy_{task}_{reader}", baselines=beside)
    details = {"task": task, "reader": reader, "n_classes": 6, "tune_accuracy": tune}
    return replace(row, details=details)


@pytest.fixture
def rows():
    return [
        read("style", "updates", "mid", 1.0, 0.30, tune=0.3, random=0.1),
        read("style", "updates", "mid", 0.0, 0.70, tune=0.9, random=0.2),
        read("style", "updates", "up", 0.0, 0.75, tune=0.8, random=0.3),
        read("style", "updates", "up", 1.0, None, tune=0.0),
        read("style", "diff_c", "mid", 0.0, 0.95, tune=0.85, random=0.9),
        read("object", "updates", "mid", 0.0, 0.45, tune=0.5, random=0.2),
    ]


def test_the_cell_is_chosen_by_tuning_pictures_and_not_by_its_own_figure(rows):
    style, _ = answers_of(rows)
    best = style.best["updates"]
    assert (best.row.block, best.row.t, best.row.figure.value) == (
        "mid",
        0.0,
        0.70,
    )  # not up, which has 0.75
    assert (best.alike, best.cells) == (
        2,
        3,
    )  # 0.65 to 0.75 overlaps with 0.70 to 0.80; one cell has no data
    assert style.leading[0] == "updates"
    assert style.n_classes == 6


def test_the_rival_of_random_weights_is_their_best_cell_whatever_the_reader(rows):
    style, object_ = answers_of(rows)
    assert style.random is not None
    assert style.random.value == 0.9
    assert style.uncleared == ["random weights"]
    assert object_.uncleared == ["pixels"]  # 0.40 to 0.50 against 0.30 to 0.50


def test_a_verdict_a_task_is_of_the_cell_that_tuning_chose_beside_its_strongest_baseline(rows):
    style, object_ = verdicts(FinishedStudy("s", "m", results=rows))
    assert style.best is not None and object_.best is not None
    assert (style.claim, style.holds, style.best.own.value) == (
        "Updates know the style",
        False,
        0.70,
    )
    assert style.best.place == "mid · t = 0.00 · uncond, linear probe, updates"
    # 0.65 less 0.95, the upper end of random weights' best cell
    assert (style.best.baseline, style.best.lead) == ("random weights", pytest.approx(-0.30))
    assert (object_.best.baseline, object_.best.lead) == ("pixels", pytest.approx(-0.10))
    (clear,) = verdicts(FinishedStudy("s", "m", results=rows[:3]))
    assert clear.holds and clear.best is not None and clear.best.baseline == "pixels"


def test_the_figure_has_a_column_a_task_and_a_line_of_panels_a_reader(rows):
    spec = knowledge(rows).to_dict()
    (data,) = data_of(spec)
    assert spec["facet"]["column"]["sort"] == ["style", "object"]
    assert spec["facet"]["row"]["sort"] == list(READERS.values())

    def line(task, reader, block, kind):
        place = (task, READERS[reader], block, kind)
        return [
            (d["t"], d["value"])
            for d in data
            if (d["task"], d["reader"], d["line"], d["kind"]) == place
        ]

    assert line("style", "updates", "mid", "read") == [(1.0, 0.30), (0.0, 0.70)]
    assert line("style", "updates", "mid", "random weights") == [(1.0, 0.1), (0.0, 0.2)]
    assert set(line("style", "updates", "majority", "majority")) == {(1.0, 0.2), (0.0, 0.2)}
    assert not line("object", "diff_c", "mid", "read")
    encoding = spec["spec"]["layer"][1]["encoding"]
    left, right = encoding["x"]["scale"]["domain"]
    assert left > 1.0 > 0.0 > right
    assert encoding["color"]["scale"]["domain"] == ["mid", "up", "pixels", "majority"]


def test_the_page_has_the_figure_the_table_and_every_cell(rows, study):
    entropy = result(
        "mid",
        0.0,
        "uncond",
        figure(0.9, (0.8, 1.0), 50),
        metric="label_entropy_style",
        higher_is_better=False,
    )
    given = replace(
        study,
        results=[*rows, entropy],
        given=True,
        pure=study.concepts[:1],
        predictions=(),
        concepts=(),
    )
    page = render_page(measured(given))
    for part in (
        "Which block and which moment know what?",
        "What the model was given",
        'href="#knowledge"',
        "like it: 2 of 3 cells",
        "Accuracy style updates of every cell",
        "Label entropy style of every cell",
        "Style of a latent&#39;s top pictures: bits",
        "The purest latents",
        "active in 2.1 % of pictures",
    ):
        assert part in page, part
    assert "composition was not evaluated" not in page
    assert page.count("Accuracy style updates of every cell") == 1
    assert "latent 412" in page


def test_a_page_without_accuracies_has_no_such_section(study):
    assert 'id="knowledge"' not in render_page(study)


def test_the_dashboards_table_has_a_row_a_task_and_reader(rows):
    table = knowledge_rows(rows)
    assert all(len(row) == len(KNOWLEDGE_COLUMNS) for row in table)
    assert table[0] == [
        "style",
        "updates",
        "mid",
        0.0,
        0.70,
        pytest.approx(0.65),
        0.75,
        100,
        0.2,
        0.4,
        0.9,
        2,
    ]


def test_rows_that_do_not_say_their_task_are_refused():
    with pytest.raises(UserError, match="incomplete"):
        by_task([result("mid", 0.0, "cond", figure(1.0, None, 1), metric="accuracy_style_updates")])
