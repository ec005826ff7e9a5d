"""Dashboard: a W&B workspace and a W&B report of the experiment, saved online with a key, else
written to a file.
"""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
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
from diffusae.report.settings import DashboardSettings
from diffusae.report.shown import Shows
from diffusae.report.tables import capital, plain
from diffusae.runs.lock import directory_lock
from diffusae.runs.record import signature
from diffusae.runs.settings import LoggerSettings
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
    study.check(DashboardSettings)
    # Read before anything is made of them, so that a damaged one is left out of all.
    runs_below(study.directory / "evaluation", read=("evaluate", THREE_STAGES))
    summarise_three_stages(study)
    results, shows = shown_results(study, all_metrics())
    interventions = shown_interventions(study)
    settings, logger = DashboardSettings.of(cfg), LoggerSettings.of(cfg)
    metrics = _titled(study, settings, shows)
    made_of: dict[str, Any] = {
        "results": [row.to_json() for row in results],
        "settings": asdict(settings),
        "titles": metrics,
    }
    if interventions:
        made_of["interventions"] = [row.to_json() for row in interventions]
    shown = Dashboard(
        project=logger.project,
        entity=logger.entity or "",
        experiment=study.name,
        overview=valid_run_id(f"{study.name}-{signature(made_of)}"),
        results=results,
        metrics=metrics,
        training=settings.training,
        galleries=_galleries(study, settings.galleries),
        interventions=interventions,
    )
    with directory_lock(study.directory / "dashboard"):
        return show_dashboard(study, shown)


def _titled(study: Study, settings: DashboardSettings, shows: Shows) -> dict[str, str]:
    """The rows to show, with their titles.

    Raises:
        UserError: none of them was evaluated.
    """
    rows = {wanted: fnmatch.filter(shows.made_by, wanted) for wanted in settings.metrics}
    if absent := [wanted for wanted, matching in rows.items() if not matching]:
        log.info("not evaluated and therefore not shown: %s", ", ".join(absent))
    titles = shows.charts(lambda _: True)
    chosen = dict.fromkeys(chain.from_iterable(rows.values()))
    if not chosen:
        raise UserError(
            f"{study.directory} has no result of {', '.join(settings.metrics)} with"
            f" sae.tag={study.cfg.sae.tag}; run `diffusae evaluate`, or choose others of"
            " dashboard.metrics"
        )
    return {row: titles.get(row) or capital(plain(row)) for row in chosen}


def _galleries(study: Study, wanted: Sequence[str]) -> list[str]:
    """Those of the wanted pictures that there are."""
    pictured = {
        panel_name(evaluation.metric)
        for evaluation in shown_evaluations(study)
        if (evaluation.directory / EXAMPLES).exists()
    }
    panels = {metric.name: metric.panel.name for metric in all_metrics() if metric.panel}
    pictured |= {
        panel
        for name, panel in panels.items()
        if any(finished_runs(study.directory / "evaluation" / name, "*"))
    }
    return [
        name
        for name in wanted
        if not name.startswith((PANEL, *panels.values())) or name in pictured
    ]
