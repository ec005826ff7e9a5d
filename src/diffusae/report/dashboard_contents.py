"""What the W&B dashboard shows of a study."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusae.activations.schema import Cell
from diffusae.evaluation.result import Result, load_results
from diffusae.files import atomic_write_json, remove_left_overs
from diffusae.report import charts
from diffusae.report.dashboard import (
    CHART,
    COLUMNS,
    HEATMAP,
    KNOWLEDGE_COLUMNS,
    KNOWLEDGE_FIGURE,
    KNOWLEDGE_TABLE,
    STAGES_COLUMNS,
    STAGES_FIGURE,
    STAGES_TABLE,
    Dashboard,
    curve_points,
    grid_rows,
    knowledge_rows,
    report_of,
    specifications,
    stage_rows,
    workspace_of,
)
from diffusae.report.knowledge import by_task
from diffusae.report.shown import Shown, Shows
from diffusae.report.stamp import is_shown, stamp
from diffusae.report.three_stages import lines_of
from diffusae.report.vega import pixels
from diffusae.runs.settings import LoggerSettings
from diffusae.runs.survey import finished_runs
from diffusae.runs.wandb_mirror import WandbMirror
from diffusae.runs.wandb_mode import mode_of
from diffusae.runs.wandb_save import save_online
from diffusae.study.study import Study
from diffusae.summaries.three_stages import STAGE as THREE_STAGES
from diffusae.summaries.three_stages import Evaluated, evaluated_interventions

log = logging.getLogger(__name__)

FILE = "wandb.json"


def shown_results(study: Study, metrics: Sequence[Shown]) -> tuple[list[Result], Shows]:
    """The rows of every finished evaluation of the autoencoders with the study's tag, and how they
    are shown.
    """
    rows: list[Result] = []
    made_by: dict[str, str] = {}
    for directory, record in finished_runs(study.directory / "evaluation", "*/*"):
        if record.stage == "evaluate":  # curves over t and other summaries are of no single cell
            for row in load_results(directory / "results.json"):
                if directory.name == f"{Cell(**row.cell).key}-{study.cfg.sae.tag}":
                    rows.append(row)
                    made_by[row.metric] = directory.parent.name
    return rows, Shows(metrics, made_by)


def shown_interventions(study: Study) -> list[Result]:
    """The rows of the three-stage table that are of the study's tag."""
    runs = finished_runs(study.directory / "evaluation" / THREE_STAGES, ".")
    rows = [row for directory, _ in runs for row in load_results(directory / "results.json")]
    return [row for row in rows if row.details["tag"] == study.cfg.sae.tag]


def shown_evaluations(study: Study) -> list[Evaluated]:
    return [one for one in evaluated_interventions(study) if one.tag == study.cfg.sae.tag]


def show_dashboard(study: Study, shown: Dashboard) -> bool:
    settings = LoggerSettings.of(study.cfg)
    path = study.directory / "dashboard" / FILE
    online = mode_of(settings.mode, os.environ) == "online"
    if is_shown(path, shown.overview):
        saved = json.loads(path.read_text(encoding="utf-8"))["saved"]
        if saved or not online:
            log.info("the dashboard is up to date: %s", _where(path, saved))
            return False
    with WandbMirror(
        study.directory / "wandb",
        project=settings.project,
        entity=settings.entity,
        group=settings.group,
        name=f"{study.name} overview",
        run_id=shown.overview,
        config={"overview": shown.overview},
        mode=settings.mode,
        timeout_s=settings.timeout_s,
    ) as mirror:
        _fill(mirror, shown)
    saved = None
    if mirror.mode == "online":
        saved = save_online(
            lambda entity: _built(shown, entity),
            entity=settings.entity,
            chart={"name": CHART, "spec": HEATMAP},
            timeout_s=settings.timeout_s,
        )
    remove_left_overs(path.parent)
    atomic_write_json(path, {"overview": shown.overview, "saved": saved, **specifications(shown)})
    stamp(path, shown.overview)
    log.info("the dashboard: %s", _where(path, saved))
    if not saved:
        log.info(
            "it holds the specifications of a W&B workspace and report. To see them in W&B, send"
            " the runs with `wandb sync %s/wandb/offline-run-*`, set WANDB_API_KEY, and give this"
            " command again with logger.mode=online",
            mirror.directory,
        )
    return True


def _fill(overview: WandbMirror, shown: Dashboard) -> None:
    """Log what is of no single cell: the figures against t, and each metric's heat map as a table
    and as a picture.
    """
    points = curve_points(shown.results, shown.metrics)
    for step, point in enumerate(points):
        overview.log(point, step=step)
    for metric in shown.metrics:
        overview.table(f"grid/{metric}", COLUMNS, grid_rows(shown.results, metric))
        drawn = pixels(charts.grid(shown.results, metric))
        overview.panel(f"heatmap/{metric}", [(shown.metrics[metric], drawn)])
    if by_task(shown.results):
        overview.table(KNOWLEDGE_TABLE, KNOWLEDGE_COLUMNS, knowledge_rows(shown.results))
        drawn = pixels(charts.knowledge(shown.results))
        overview.panel(KNOWLEDGE_FIGURE, [("Accuracy by task, reader and block", drawn)])
    if shown.interventions:
        overview.table(STAGES_TABLE, STAGES_COLUMNS, stage_rows(shown.interventions))
        lines = lines_of(shown.interventions)
        drawn = {name: charts.three_stages(lines, name) for name in ("success", "change")}
        overview.panel(
            STAGES_FIGURE,
            [
                (f"Interventions by window: {name}", pixels(chart))
                for name, chart in drawn.items()
                if chart is not None
            ],
        )


def _built(shown: Dashboard, entity: str) -> dict[str, Any]:
    owned = replace(shown, entity=entity)
    return {"workspace": workspace_of(owned), "report": report_of(owned)}


def _where(path: Path, saved: dict[str, str] | None) -> str:
    return ", ".join(saved.values()) if saved else str(path)
