"""A W&B workspace and a W&B report of one experiment, as objects: nothing here talks to W&B.

wandb-workspaces has no panel for a heat map. So there are two: a custom chart, whose Vega-Lite
specification is HEATMAP, over a table of the overview run, and the same heat map as a picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces import expr

from diffusae.evaluation.result import Result
from diffusae.report.charts import TIME_LABEL
from diffusae.report.knowledge import answers_of, by_task
from diffusae.report.tables import capital, plain, rows_of
from diffusae.report.three_stages import Measure, controls_of, lines_of

CHART = "diffusae-heatmap"
COLUMNS = ["cell line", "t", "value", "low", "high", "n", "pictures"]
STAGES_TABLE = "three_stages"
STAGES_FIGURE = "three_stages/figure"
KNOWLEDGE_TABLE = "knowledge"
KNOWLEDGE_FIGURE = "knowledge/figure"
KNOWLEDGE_COLUMNS = [
    *("task", "reader", "block", "t", "accuracy", "low", "high", "n"),
    *("majority", "pixels", "random weights, best cell", "cells like it"),
]
STAGES_COLUMNS = [
    *("window", "edit", "place", "sae", "method", "strength", "success", "low", "high"),
    *("n", "pictures"),
    *("concepts minus it", "minus low", "minus high", "objects kept", "change"),
]
HEATMAP: dict[str, Any] = {
    "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
    "title": "${string:title}",
    "data": {"name": "wandb"},
    "encoding": {
        "x": {"field": "${field:t}", "type": "ordinal", "sort": "descending", "title": TIME_LABEL},
        "y": {"field": "${field:line}", "type": "nominal", "sort": None, "title": None},
    },
    "layer": [
        {
            "mark": {"type": "rect", "tooltip": {"content": "data"}},
            "encoding": {
                "color": {
                    "field": "${field:value}",
                    "type": "quantitative",
                    "title": None,
                    "scale": {"scheme": "${string:scheme}", "zero": True},
                }
            },
        },
        {
            "mark": {"type": "text"},
            "encoding": {
                "text": {"field": "${field:value}", "type": "quantitative", "format": ".3f"}
            },
        },
    ],
}


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """What the dashboard shows.

    Attributes:
        project, entity: where the runs are; an entity of "" is not known yet.
        experiment: the value of `experiment` in the config of every cell's run.
        overview: the value of `overview` in the config of the one run that holds what is of no
            single cell.
        results: rows of results.json.
        metrics: the rows of `results` to show, by name, in order, with their titles.
        training: metrics of the cells' runs to show over training steps.
        galleries: names of captioned pictures in the cells' runs.
        interventions: rows of the three-stage table; none: nothing was evaluated.
    """

    project: str
    entity: str
    experiment: str
    overview: str
    results: Sequence[Result]
    metrics: Mapping[str, str]
    training: Sequence[str]
    galleries: Sequence[str]
    interventions: Sequence[Result] = ()


@dataclass(frozen=True)
class Part:
    """One section of the workspace and of the report. `of_cells`: of the cells' runs, else of the
    overview run.
    """

    title: str
    text: str
    of_cells: bool
    panels: list[Any]


def grid_rows(results: Sequence[Result], metric: str) -> list[list[Any]]:
    """The rows of the overview run's table `grid/<metric>`, in the order of COLUMNS; cells without
    data are left out.
    """
    return [
        [
            line_name(row.block, row.conditioning),
            row.t,
            row.figure.value,
            *(row.figure.ci95 or (None, None)),
            row.figure.n,
            row.figure.clusters,
        ]
        for row in rows_of(results, metric)
        if row.figure.value is not None
    ]


def curve_points(results: Sequence[Result], metrics: Iterable[str]) -> list[dict[str, float]]:
    """For the overview run: one step for each t, from 1 to 0, with every metric of every block and
    conditioning.
    """
    points: dict[float, dict[str, float]] = {}
    for metric in metrics:
        for row in rows_of(results, metric):
            if row.figure.value is not None:
                point = points.setdefault(row.t, {"t": row.t})
                point[_curve(metric, row.block, row.conditioning)] = row.figure.value
    return [points[t] for t in sorted(points, reverse=True)]


def line_name(block: str, conditioning: str) -> str:
    """A line of the heat map."""
    return f"{block} {conditioning}"


_SECTIONS = {
    "The grid": (
        "Each metric over t and block. Charts can be pointed at; the pictures below them need no"
        " saved chart.",
        False,
    ),
    "Over time": ("The same figures against t: 1 is the first reverse step, 0 the last.", False),
    "Knowledge": (
        "Which block and which t know what: labels of given pictures, read from updates, codes and"
        " pixels. The figure, and for each task and reader the cell that the tuning pictures"
        " choose.",
        False,
    ),
    "Interventions": (
        "What the concepts cause when they are added in one window of generation, beside the"
        " controls on the same pictures: the three-stage table, and its figure.",
        False,
    ),
    "Before and after": (
        "The same prompt and seed without an edit, with the concepts, and with each control.",
        True,
    ),
    "Cells": ("Every cell is a run; its coordinates are in its config.", True),
    "Training": ("The autoencoders while they were trained.", True),
    "Concepts": (
        "The most telling latents of each cell, with the pictures in which they are strongest.",
        True,
    ),
}
"""Title -> its explanation, and whether its panels are of the cells' runs."""


def parts_of(shown: Dashboard) -> list[Part]:
    """The sections, in order; those without a panel are left out."""
    metrics = shown.metrics
    summaries = {metric: wr.SummaryMetric(f"test/{metric}") for metric in metrics}
    axes = [*map(wr.Config, ("t", "block", "conditioning")), *summaries.values()]
    columns = [wr.ParallelCoordinatesPlotColumn(metric=axis) for axis in axes]
    figures = [_pictures(title, f"heatmap/{metric}") for metric, title in metrics.items()]
    curves = [
        wr.LinePlot(title=title, x="t", y=_curves(shown.results, metric), title_x=TIME_LABEL)
        for metric, title in metrics.items()
    ]
    known = _figure_and_table("Accuracy by task", KNOWLEDGE_FIGURE, KNOWLEDGE_TABLE)
    edited = _figure_and_table("Success and change by window", STAGES_FIGURE, STAGES_TABLE)
    legend = "${config:block} ${config:conditioning}"
    scattered = [
        wr.ScatterPlot(title=metrics[metric], x=wr.Config("t"), y=summary, legend_template=legend)
        for metric, summary in summaries.items()
    ]
    together = wr.ParallelCoordinatesPlot(title="Coordinates and figures", columns=columns)
    before_after, galleries = [], []
    for name in shown.galleries:
        gallery = _pictures(capital(plain(name.replace("/", ": "))), name)
        (before_after if name.startswith("before_after") else galleries).append(gallery)
    panels: dict[str, list[Any]] = {
        "The grid": [*(_heatmap(shown, metric) for metric in metrics), *figures],
        "Over time": curves,
        "Knowledge": known if by_task(shown.results) else [],
        "Interventions": edited if shown.interventions else [],
        "Before and after": before_after,
        "Cells": [*scattered, together],
        "Training": [wr.LinePlot(title=name, y=[name]) for name in shown.training],
        "Concepts": [*galleries, wr.WeavePanelSummaryTable(table_name="concepts")],
    }
    return [Part(title, *_SECTIONS[title], made) for title, made in panels.items() if made]


def workspace_of(shown: Dashboard) -> ws.Workspace:
    """The workspace: runs of the experiment on the left, one section a part."""
    return ws.Workspace(
        entity=shown.entity,
        project=shown.project,
        name=f"diffusae {shown.experiment}",
        sections=[
            ws.Section(name=part.title, panels=part.panels, is_open=True)
            for part in parts_of(shown)
        ],
        settings=ws.WorkspaceSettings(max_runs=100),
        runset_settings=ws.RunsetSettings(
            filters=expr.Or(_cells(shown), _overview(shown)),
            order=[expr.Ordering(expr.Config(name)) for name in ("block", "t", "conditioning")],
            pinned_columns=[f"config:{name}" for name in ("block", "t", "conditioning")]
            + [f"summary:test/{metric}" for metric in shown.metrics],
        ),
    )


def report_of(shown: Dashboard) -> wr.Report:
    """The report: the same parts with their explanations."""
    # Without a project of their own, runs are the report's project's; with one, it would be asked
    # for at W&B.
    cells = wr.Runset(name="cells", filters=expr.And(_cells(shown)))
    overview = wr.Runset(name="overview", filters=expr.And(_overview(shown)))
    blocks: list[Any] = [wr.TableOfContents()]
    for part in parts_of(shown):
        runset = cells if part.of_cells else overview
        for number, panel in enumerate(part.panels):
            panel.layout = wr.Layout(x=12 * (number % 2), y=8 * (number // 2), w=12, h=8)
        blocks += [
            wr.H2(text=part.title),
            wr.P(text=part.text),
            wr.PanelGrid(runsets=[runset], panels=part.panels),
        ]
    return wr.Report(
        entity=shown.entity,
        project=shown.project,
        title=f"diffusae {shown.experiment}",
        description=(
            "Which concepts a denoiser holds at each moment of generation, in which block, and how"
            " well they tell what comes."
        ),
        blocks=blocks,
        width="fluid",
    )


def specifications(shown: Dashboard) -> dict[str, Any]:
    """The saved chart, the workspace and the report as W&B's own JSON."""
    models = {"workspace": workspace_of(shown)._to_model(), "report": report_of(shown)._to_model()}
    dumped = {
        name: model.model_dump(mode="json", by_alias=True, exclude_none=True)
        for name, model in models.items()
    }
    return {"chart": {"name": CHART, "spec": HEATMAP}, **dumped}


def stage_rows(results: Sequence[Result]) -> list[list[Any]]:
    """The rows of the overview run's table of interventions, in the order of STAGES_COLUMNS: one an
    edit, place and method.
    """
    return [
        [
            line.window,
            line.edit,
            line.place,
            line.tag,
            method,
            line.strengths.get(method),
            *_cell(line.measures.get("success"), method),
            *_cell(line.measures.get("success"), method, difference=True)[:3],
            _cell(line.measures.get("kept"), method)[0],
            _cell(line.distance, method)[0],
        ]
        for line in lines_of(results)
        for method in ("concepts", *controls_of([line]))
    ]


def knowledge_rows(results: Sequence[Result]) -> list[list[Any]]:
    """The rows of the overview run's table of knowledge, in the order of KNOWLEDGE_COLUMNS: one a
    task and reader.
    """
    return [
        [
            answer.task,
            reader,
            best.row.block,
            best.row.t,
            best.row.figure.value,
            *(best.row.figure.ci95 or (None, None)),
            best.row.figure.n,
            *(
                figure and figure.value
                for figure in (answer.majority, answer.pixels, answer.random)
            ),
            best.alike,
        ]
        for answer in answers_of(results)
        for reader, best in answer.best.items()
    ]


def _cell(measure: Measure | None, method: str, *, difference: bool = False) -> list[Any]:
    """Value, low, high, n and pictures of a method's figure, or of the concepts' difference to
    it.
    """
    if measure is None:
        return [None] * 5
    figures = measure.differences if difference else {"concepts": measure.own, **measure.controls}
    figure = figures.get(method)
    if figure is None or figure.value is None:
        return [None] * 5
    return [figure.value, *(figure.ci95 or (None, None)), figure.n, figure.clusters]


def _pictures(title: str, key: str) -> Any:
    return wr.MediaBrowser(title=title, media_keys=[key], num_columns=1)


def _figure_and_table(title: str, figure: str, table: str) -> list[Any]:
    return [_pictures(title, figure), wr.WeavePanelSummaryTable(table_name=table)]


def _heatmap(shown: Dashboard, metric: str) -> wr.CustomChart:
    higher = rows_of(shown.results, metric)[0].result.higher_is_better
    chart = wr.CustomChart.from_table(
        f"grid/{metric}",
        chart_fields={"line": COLUMNS[0], "t": "t", "value": "value"},
        chart_strings={"title": shown.metrics[metric], "scheme": "blues" if higher else "oranges"},
    )
    chart.chart_name = f"{shown.entity}/{CHART}"
    return chart


def _curve(metric: str, block: str, conditioning: str) -> str:
    return f"over_t/{metric}/{line_name(block, conditioning)}"


def _curves(results: Sequence[Result], metric: str) -> list[Any]:
    names = (_curve(metric, row.block, row.conditioning) for row in rows_of(results, metric))
    return list(dict.fromkeys(names))


def _cells(shown: Dashboard) -> expr.FilterExpr:
    return expr.Config("experiment") == shown.experiment


def _overview(shown: Dashboard) -> expr.FilterExpr:
    return expr.Config("overview") == shown.overview
