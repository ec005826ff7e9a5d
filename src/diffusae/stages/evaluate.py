"""Evaluate: one metric at one cell, with its baselines on the same pictures."""

from __future__ import annotations

import logging

from omegaconf import DictConfig

from diffusae.errors import together
from diffusae.evaluation.result import load_results
from diffusae.labelling.label import word_embedding
from diffusae.metrics.evaluate import evaluate_cell, evaluated, evaluation_faults
from diffusae.study.study import Study
from diffusae.training.cell import mirror_of

log = logging.getLogger(__name__)


def evaluate(cfg: DictConfig) -> bool:
    """Evaluate one cell by the metric that `evaluation` names; False: it is finished already."""
    study = Study(cfg)
    study.check()
    together(evaluation_faults(study))
    directory = study.evaluation(cfg.evaluation.name)
    finished = evaluated(study)
    if finished:
        log.info("%s is evaluated already", directory)
    else:
        with mirror_of(study) as mirror:
            evaluate_cell(study, mirror, lambda: word_embedding(study))
    for result in load_results(directory / "results.json"):
        interval, n = result.estimate.ci95, result.estimate.counted
        log.info("%s = %s, 95 %% interval %s, n = %s", result.metric, result.value, interval, n)
    return not finished
