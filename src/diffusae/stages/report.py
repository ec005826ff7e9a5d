"""Report: gather what is finished into one HTML page."""

from __future__ import annotations

import logging
from pathlib import Path

from omegaconf import DictConfig

from diffusae.errors import UserError, together
from diffusae.files import remove_left_overs
from diffusae.report.gathering import SHOWN, Source, in_order, shown_contents, summarised
from diffusae.report.stamp import is_shown, stamp
from diffusae.runs.disk import require_writable
from diffusae.runs.record import warn_once
from diffusae.runs.survey import runs_below
from diffusae.study.study import Study

log = logging.getLogger(__name__)


def report(cfg: DictConfig, *, so_far: str = "") -> None:
    """Write `report/index.html` of all that is finished. Nothing is done where the page shows just
    that already.

    Curves over t are summarised first, of grids with enough moments, and the three-stage table of
    all interventions.

    Args:
        so_far: what of a study that goes on is finished, such as "1 of 18 cells". The page says so,
            nothing is summarised yet, and the next report is written anew.
    """
    study = Study(cfg)
    page = Path(cfg.paths.report) / "index.html"
    if is_shown(page, shown_contents(study, runs_below(study.directory)) + so_far):
        log.info("the report is up to date: %s", page)
        return
    from diffusae.metrics.registry import metrics  # these and charts take seconds to import
    from diffusae.report.page import page_of, write_report

    require_writable(page.parent, instead="paths.report")
    # Everything is read before the summaries are made, so that what is damaged is left out of all.
    runs_below(study.directory, read=SHOWN)
    faults = [] if so_far else list(summarised(study))
    runs = in_order(runs_below(study.directory))
    if not any(run.fault is None for run in runs):
        raise UserError(
            f"{study.directory} holds no finished run; run `diffusae run` or its stages first"
        )
    for run in runs:
        if run.fault is not None:
            warn_once(run.left_out)
    remove_left_overs(page.parent)
    write_report(page, page_of(Source(study, runs, metrics()), so_far=so_far))
    stamp(page, shown_contents(study, runs) + so_far)
    log.info("%s: %s", f"a first report, of {so_far}" if so_far else "the report", page.absolute())
    together(faults)
