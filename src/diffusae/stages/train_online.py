"""Train online: every cell of the grid, and every k that is asked for, while the training pictures
are made. None of them is stored.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from omegaconf import DictConfig

from diffusae.activations.settings import ActivationSettings
from diffusae.collecting.collect import require_collected
from diffusae.collecting.online import training_pictures
from diffusae.errors import UserError
from diffusae.jobs.out_of_memory import tells_memory
from diffusae.runs.record import signature
from diffusae.study.study import Study
from diffusae.training.online import train_online as train_all
from diffusae.training.train_grid import grid_members, trainings_together

log = logging.getLogger(__name__)


@tells_memory(
    "training while pictures are made",
    "activations.buffer_vectors",
    "activations.batch_size",
    "sae.d_sae",
    "model.batch_size",
)
def train_online(cfg: DictConfig) -> bool:
    """Train what is not finished of `grid`: its cells, each with every k of `grid.k`.

    Every training picture is made once an epoch for all of them. The results are those of `diffusae
    collect` and `diffusae train_grid`, bit for bit on a CPU. False: all were finished already.

    Raises:
        UserError: training pictures are stored, or the other splits are not collected, or with
            other settings.
    """
    study = Study(cfg)
    study.check()
    if ActivationSettings.of(cfg).store_training:
        raise UserError(
            "train_online is for training pictures that are not stored, and"
            " activations.store_training=true; use `diffusae train_grid`, or"
            " activations.store_training=false"
        )
    require_collected(study)
    studies = grid_members(cfg, equal_steps=False)
    directory = (
        Path(cfg.paths.experiment) / "sae" / f".online-{signature({'members': sorted(studies)})}"
    )
    together = trainings_together(directory, studies)
    if together:
        pictures = training_pictures(study, counts=directory / "pictures.json")
        members = {name: studies[name] for name in together}
        train_all(members, directory, pictures, images=pictures.images)
    shutil.rmtree(directory, ignore_errors=True)  # also what a kill after the last training left
    log.info("%d trainings are finished", len(studies))
    return bool(together)
