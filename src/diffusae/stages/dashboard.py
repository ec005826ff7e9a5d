"""Dashboard: a W&B workspace and a W&B report of the experiment, saved online with a key, else
written to a file.
"""

from __future__ import annotations

import fnmatch
import logging
from typing import Any

from omegaconf import DictConfig

from diffusae.errors import UserError
from diffusae.metrics.registry import metrics as all_metrics
from diffusae.report.before_after import FILE as EXAMPLES
from diffusae.report.before_after import PANEL, panel_name
from diffusae.report.dashboard import Dashboard
from diffusae.report.dashboard_contents import (
    show_dashboard,
    shown_evaluations,
    shown_interventions,
    shown_results,
)
from diffusae.runs.lock import directory_lock
from diffusae.runs.record import signature
from diffusae.runs.survey import finished_runs, runs_below
from diffusae.runs.wandb_mode import valid_run_id
from diffusae.study.study import Study
from diffusae.summaries.three_stages import STAGE as THREE_STAGES
from diffusae.summaries.three_stages import summarise_three_stages

log = logging.getLogger(__name__)


def dashboard(cfg: DictConfig) -> bool:
    """Build the dashboard of all cells of `sae.tag` that are evaluated; False: it shows just that
    already.
    """
    study = Study(cfg)
    study.check()
    # Read before anything is made of them, so that a damaged one is left out of all.
    runs_below(study.directory / "evaluation", read=("evaluate", THREE_STAGES))
    summarise_three_stages(study)
    results = shown_results(study)
    interventions = shown_interventions(study)
    settings = study.part("dashboard")
    measured = list(dict.fromkeys(row.metric for row in results))
    named = {wanted: fnmatch.filter(measured, wanted) for wanted in settings["metrics"]}
    metrics = list(dict.fromkeys(metric for found in named.values() for metric in found))
    if not metrics:
        raise UserError(
            f"{study.directory} has no result of {', '.join(settings['metrics'])} with"
            f" sae.tag={cfg.sae.tag}; run `diffusae evaluate`, or choose others of"
            " dashboard.metrics"
        )
    if absent := [wanted for wanted, found in named.items() if not found]:
        log.info("not evaluated and therefore not shown: %s", ", ".join(absent))
    made_of: dict[str, Any] = {"results": [row.to_json() for row in results], "settings": settings}
    if interventions:
        made_of["interventions"] = [row.to_json() for row in interventions]
    pictured = {
        panel_name(each.metric)
        for each in shown_evaluations(study)
        if (each.directory / EXAMPLES).exists()
    }
    panels = {metric.name: metric.panel.name for metric in all_metrics() if metric.panel}
    pictured |= {
        panel
        for name, panel in panels.items()
        if any(finished_runs(study.directory / "evaluation" / name, "*"))
    }
    shown = Dashboard(
        project=cfg.logger.project,
        entity=cfg.logger.entity or "",
        experiment=study.name,
        overview=valid_run_id(f"{study.name}-{signature(made_of)}"),
        results=results,
        metrics=metrics,
        training=settings["training"],
        galleries=[
            name
            for name in settings["galleries"]
            if not name.startswith((PANEL, *panels.values())) or name in pictured
        ],
        interventions=interventions,
    )
    with directory_lock(study.directory / "dashboard"):
        return show_dashboard(study, shown)
