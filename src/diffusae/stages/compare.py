"""Compare: what is evaluated in an outputs folder beside a paper's own figures."""

from __future__ import annotations

import logging
from dataclasses import asdict

from omegaconf import DictConfig

from diffusae.files import atomic_path, atomic_write_json, remove_left_overs
from diffusae.report.compared import figures_below, show_comparison
from diffusae.report.comparison import compare as lay_beside
from diffusae.report.comparison import comparison_csv, comparison_markdown, load_reference
from diffusae.runs.disk import where_writable
from diffusae.study.study import Study

log = logging.getLogger(__name__)


def compare(cfg: DictConfig) -> None:
    """Print the comparison and write it to `compare/<reference>.{json,csv,md}` in the study's
    directory.

    All `evaluation/**/results.json` below the directory are read, of whatever SAE; those of a run
    that is not finished are left out.
    """
    study = Study(cfg)
    reference = load_reference(cfg.reference)
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
