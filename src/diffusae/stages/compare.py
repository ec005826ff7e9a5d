"""Compare: what is evaluated in an outputs folder beside a paper's own figures, or several studies
side by side.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig

from diffusae.files import atomic_path, atomic_write_json, remove_left_overs
from diffusae.report.compared import figures_below, show_comparison
from diffusae.report.comparison import compare as lay_beside
from diffusae.report.comparison import comparison_csv, comparison_markdown, load_reference
from diffusae.report.settings import CompareSettings
from diffusae.runs.disk import require_writable, where_writable
from diffusae.study.study import Study

log = logging.getLogger(__name__)


def compare(cfg: DictConfig) -> None:
    """Print the comparison and write it to `compare/<reference>.{json,csv,md}` in the study's
    directory.

    All `evaluation/**/results.json` below the directory are read, of whatever SAE; those of a run
    that is not finished are left out.

    With `studies`, these directories are shown on one page instead, with a JSON file beside it.
    """
    study, settings = Study(cfg), CompareSettings.of(cfg)
    if settings.studies:
        _side_by_side(study, settings)
        return
    reference = load_reference(settings.reference)
    ours = list(figures_below(study.directory))
    if not ours:
        log.warning(
            "%s holds no results yet: every row is without data", study.directory / "evaluation"
        )
    lines = lay_beside(reference, ours)
    place = study.directory / "compare" / reference.id
    show_comparison(study.name, reference, lines)
    with where_writable(place, otherwise="the comparison is shown and not kept"):
        remove_left_overs(place.parent)
        atomic_write_json(place.with_suffix(".json"), [asdict(line) for line in lines])
        for suffix, text in (
            (".csv", comparison_csv(lines)),
            (".md", comparison_markdown(reference, lines, experiment=study.name)),
        ):
            with atomic_path(place.with_suffix(suffix)) as temporary:
                temporary.write_text(text, encoding="utf-8")
        log.info("written to %s.json, .csv and .md", place)


def _side_by_side(study: Study, settings: CompareSettings) -> None:
    from diffusae.report.side_by_side import Member, write_side_by_side  # charts take seconds

    page = Path(settings.page)
    members = [Member.of(study, directory, page) for directory in settings.studies]
    require_writable(page.parent, instead="page")
    write_side_by_side(page, study.name, members)
    for member in members:
        log.info("%s: the law of three stages: %s", member.name, member.law_text)
    log.info("the page: %s", page.absolute())
