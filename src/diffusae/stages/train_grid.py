"""Train the grid: every cell, and every k that is asked for, side by side in one process."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from omegaconf import DictConfig

from diffusae.jobs.out_of_memory import tells_memory
from diffusae.runs.record import signature
from diffusae.study.study import Study
from diffusae.training.train_grid import grid_members, train_together, trainings_together

log = logging.getLogger(__name__)


@tells_memory(
    "training side by side", "activations.batch_size", "sae.d_sae", "activations.buffer_vectors"
)
def train_grid(cfg: DictConfig) -> bool:
    """Train what is not finished of `grid`: its cells, each with every k of `grid.k`.

    Every stream is read once for all k, and the results are those of `diffusae train` cell by cell,
    bit for bit. W&B gets each training's figures when all are done. False: all were finished
    already.
    """
    Study(cfg).check()
    studies = grid_members(cfg)
    directory = (
        Path(cfg.paths.experiment) / "sae" / f".grid-{signature({'members': sorted(studies)})}"
    )
    together = trainings_together(directory, studies)
    if together:
        train_together({name: studies[name] for name in together}, directory)
    shutil.rmtree(directory, ignore_errors=True)  # also what a kill after the last training left
    log.info("%d trainings are finished", len(studies))
    return bool(together)
