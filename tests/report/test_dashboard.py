"""The workspace and the report as W&B's own JSON, against what was put in by hand."""

from typing import Any

import pytest

from diffusae.report.dashboard import (
    COLUMNS,
    HEATMAP,
    STAGES_COLUMNS,
    Dashboard,
    curve_points,
    grid_rows,
    specifications,
    stage_rows,
    workspace_of,
)
from report.rows import figure, result, staged

RESULTS = [
    result("up", 0.0, "cond", figure(0.6, (0.5, 0.7), 91)),
    result("mid", 1.0, "cond", figure(0.3, (0.2, 0.4), 87)),
    result("mid", 0.0, "cond", figure(None)),
    result(
        "mid", 1.0, "cond", figure(0.06, None, 64), metric="dead_fraction", higher_is_better=False
    ),
]
STAGED = [
    staged(
        "spatial",
        figure(0.9, (0.8, 1.0), 20),
        controls={"no_edit": figure(0.25, (0.1, 0.4), 24), "neuron": figure(None)},
        differences={"no_edit": figure(0.7, (0.5, 0.9), 20)},
        standing={"no_edit": "better"},
    ),
    staged("spatial", figure(0.05, (0.04, 0.06), 20), measure="distance"),
]


@pytest.fixture
def shown() -> Dashboard:
    return Dashboard(
        project="p",
        entity="me",
        experiment="mini",
        overview="mini-0123",
        results=RESULTS,
        metrics={"composition": "Composition", "dead_fraction": "Dead fraction"},
        training=["train/loss"],
        galleries=["gallery", "before_after/spatial"],
        interventions=STAGED,
    )


PARTS = [
    "The grid",
    "Over time",
    "Interventions",
    "Before and after",
    "Cells",
    "Training",
    "Concepts",
]


def panels(specification: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    sections = specification["workspace"]["spec"]["section"]["panelBankConfig"]["sections"]
    return {section["name"]: section["panels"] for section in sections}


def test_the_table_of_a_heat_map_has_a_row_for_each_cell_with_data():
    assert COLUMNS == ["cell line", "t", "value", "low", "high", "n", "pictures"]
    assert grid_rows(RESULTS, "composition") == [
        ["mid cond", 1.0, 0.3, 0.2, 0.4, 87, None],
        ["up cond", 0.0, 0.6, 0.5, 0.7, 91, None],
    ]
    assert grid_rows(RESULTS, "dead_fraction") == [["mid cond", 1.0, 0.06, None, None, 64, None]]


def test_a_curve_has_a_step_for_each_t_from_one_to_zero():
    assert curve_points(RESULTS, ["composition", "dead_fraction"]) == [
        {"t": 1.0, "over_t/composition/mid cond": 0.3, "over_t/dead_fraction/mid cond": 0.06},
        {"t": 0.0, "over_t/composition/up cond": 0.6},
    ]


def test_the_workspace_has_a_heat_map_a_picture_and_a_curve_for_each_metric(shown):
    shown_panels = panels(specifications(shown))
    assert list(shown_panels) == PARTS
    charts = [panel["config"] for panel in shown_panels["The grid"] if panel["viewType"] == "Vega2"]
    assert [chart["panelDefId"] for chart in charts] == ["me/diffusae-heatmap"] * 2
    assert charts[0]["fieldSettings"] == {"line": "cell line", "t": "t", "value": "value"}
    assert [chart["stringSettings"] for chart in charts] == [
        {"title": "Composition", "scheme": "blues"},
        {"title": "Dead fraction", "scheme": "oranges"},
    ]
    (query,) = charts[0]["userQuery"]["queryFields"]
    table = next(field for field in query["fields"] if field["name"] == "summaryTable")
    assert table["args"] == [{"name": "tableKey", "value": "grid/composition"}]
    pictures = [
        panel["config"]["mediaKeys"]
        for panel in shown_panels["The grid"]
        if "mediaKeys" in panel["config"]
    ]
    assert pictures == [["heatmap/composition"], ["heatmap/dead_fraction"]]
    first, second = (panel["config"] for panel in shown_panels["Over time"])
    assert (first["xAxis"], first["metrics"]) == (
        "t",
        ["over_t/composition/mid cond", "over_t/composition/up cond"],
    )
    assert second["metrics"] == ["over_t/dead_fraction/mid cond"]


def test_the_workspace_reads_each_cells_coordinates_and_figures_from_its_run(shown):
    shown_panels = panels(specifications(shown))
    scatter, _, parallel = (panel["config"] for panel in shown_panels["Cells"])
    assert (scatter["xAxis"], scatter["yAxis"]) == ("config:t.value", "summary:test/composition")
    assert [column["accessor"] for column in parallel["columns"]] == [
        "config:t.value",
        "config:block.value",
        "config:conditioning.value",
        "summary:test/composition",
        "summary:test/dead_fraction",
    ]
    assert [panel["config"]["metrics"] for panel in shown_panels["Training"]] == [["train/loss"]]
    assert [panel["config"].get("mediaKeys") for panel in shown_panels["Concepts"]][:1] == [
        ["gallery"]
    ]
    assert shown_panels["Concepts"][1]["viewType"] == "Weave"


def test_interventions_have_their_table_their_figure_and_the_pictures_of_each_cell(shown):
    shown_panels = panels(specifications(shown))
    figure_, table = shown_panels["Interventions"]
    assert figure_["config"]["mediaKeys"] == ["three_stages/figure"]
    assert "three_stages" in str(table)
    assert [panel["config"]["mediaKeys"] for panel in shown_panels["Before and after"]] == [
        ["before_after/spatial"]
    ]


def test_the_table_of_interventions_has_a_row_a_method_with_the_concepts_lead_over_it():
    place = ["early", "spatial", "down · t = 0.80 · cond", "k10"]
    assert len(STAGES_COLUMNS) == 16
    assert stage_rows(STAGED) == [
        [*place, "concepts", 3.0, 0.9, 0.8, 1.0, 20, None, None, None, None, None, 0.05],
        [*place, "no_edit", None, 0.25, 0.1, 0.4, 24, None, 0.7, 0.5, 0.9, None, None],
        [*place, "neuron", *[None] * 11],
    ]


def test_the_workspace_shows_the_experiments_cells_and_the_one_overview(shown):
    (runs,) = specifications(shown)["workspace"]["spec"]["section"]["runSets"]
    first, second = runs["filters"]["filters"]
    assert (first["key"]["name"], first["value"]) == ("experiment", "mini")
    assert (second["key"]["name"], second["value"], second["connector"]) == (
        "overview",
        "mini-0123",
        "OR",
    )
    assert runs["runFeed"]["columnOrder"][1:] == [
        "config:block",
        "config:t",
        "config:conditioning",
        "summary:test/composition",
        "summary:test/dead_fraction",
    ]


def test_the_report_has_the_same_parts_each_with_the_runs_that_it_is_about(shown):
    blocks = specifications(shown)["report"]["spec"]["blocks"]
    headings = [block["children"][0]["text"] for block in blocks if block["type"] == "heading"]
    grids = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
    assert headings == list(panels(specifications(shown)))
    filters = [grid["runSets"][0]["filters"]["filters"] for grid in grids]
    overview, cells = "mini-0123", "mini"
    assert [filtered[0]["value"] for filtered in filters] == [*[overview] * 3, *[cells] * 4]
    layouts = [panel["layout"] for panel in grids[0]["panelBankSectionConfig"]["panels"]]
    assert [(layout["x"], layout["y"]) for layout in layouts] == [(0, 0), (12, 0), (0, 8), (12, 8)]


def test_a_part_without_panels_is_left_out(shown):
    from dataclasses import replace

    names = [
        section.name
        for section in workspace_of(replace(shown, training=[], interventions=[])).sections
    ]
    assert names == [name for name in PARTS if name not in ("Training", "Interventions")]


def test_the_saved_chart_asks_for_the_fields_and_strings_that_the_panels_give(shown):
    text = str(HEATMAP)
    chart = panels(specifications(shown))["The grid"][0]["config"]
    for name in chart["fieldSettings"]:
        assert f"${{field:{name}}}" in text
    for name in chart["stringSettings"]:
        assert f"${{string:{name}}}" in text
