"""Miniature: train the shipped model's parts, assemble the pipeline folder, and measure it at the
gate.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from diffusae.errors import UserError, unknown
from diffusae.jobs.processes import device_fault
from diffusae.miniature.measured import pass_gate
from diffusae.miniature.train import MiniatureTraining
from diffusae.runs.lock import directory_lock
from diffusae.study.resolvers import register_resolvers

log = logging.getLogger(__name__)
register_resolvers()


def miniature(cfg: DictConfig) -> None:
    """Do one part, or all of them one after the other; what is trained already is not trained
    again.
    """
    if fault := device_fault(cfg.training.accelerator, setting="training.accelerator"):
        raise UserError(fault)
    training = MiniatureTraining(cfg.directory, **cfg.training)
    parts: dict[str, Callable[[], Any]] = {
        "autoencoder": training.autoencoder,
        "annotator": training.annotator,
        "denoiser": training.denoiser,
        "assemble": lambda: training.assemble(cfg.folder),
        "gate": lambda: pass_gate(cfg),
    }
    if cfg.part not in ("all", *parts):
        raise unknown("part", cfg.part, ("all", *parts))
    with directory_lock(Path(cfg.directory)):
        for name, part in parts.items():
            if cfg.part in ("all", name):
                log.info("miniature: %s", name)
                part()
