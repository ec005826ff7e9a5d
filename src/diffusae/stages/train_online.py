"""Train online: every cell of the grid, and every k that is asked for, while the training pictures
are made. None of them is stored.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from diffusae.activations.settings import ActivationSettings
from diffusae.collecting.collect import require_collected
from diffusae.collecting.online import training_pictures
from diffusae.collecting.rounds import Rounds
from diffusae.errors import UserError
from diffusae.jobs.out_of_memory import tells_memory
from diffusae.jobs.ranks import Ranks, shared
from diffusae.plugins import use
from diffusae.runs.record import signature
from diffusae.sae.settings import TrainerSettings
from diffusae.study.study import Study
from diffusae.training.cell import trained
from diffusae.training.online import train_online as train_all
from diffusae.training.shares import number_of_shares, shares_of
from diffusae.training.train_grid import grid_members, trainings_together

log = logging.getLogger(__name__)


def train_online(cfg: DictConfig) -> bool:
    """Train what is not finished of `grid`: its cells, each with every k of `grid.k`.

    Every training picture is made once an epoch for all of them. Several processes
    (`trainer.devices`) divide the pictures and the trainings. The results are those of `diffusae
    collect` and `diffusae train_grid`, bit for bit on a CPU. False: all were finished already.

    Raises:
        UserError: training pictures are stored, or the other splits are not collected, or with
            other settings; another process has ended.
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
    waiting = [name for name, one in studies.items() if not trained(one)]
    if waiting:
        settings = TrainerSettings.of(cfg)
        shared(partial(_train, cfg), devices=settings.devices, num_nodes=settings.num_nodes)
    shutil.rmtree(_notes(cfg, studies), ignore_errors=True)  # also what a kill left at the end
    log.info("%d trainings are finished", len(studies))
    return bool(waiting)


@tells_memory(
    "training while pictures are made",
    "activations.buffer_vectors",
    "activations.batch_size",
    "sae.d_sae",
    "model.batch_size",
)
def _train(cfg: DictConfig, ranks: Ranks) -> None:
    """The part of one process."""
    use(cfg.plugins)
    studies, study = grid_members(cfg, equal_steps=False), Study(cfg)
    directory = _notes(cfg, studies)
    begun: tuple[list[str], int] | None = None
    if ranks.leads:
        names = trainings_together(directory, studies)
        begun = names, number_of_shares(directory / "shares.json", ranks.count)
    names, count = ranks.told(begun)[0]
    shares = shares_of({name: studies[name] for name in names}, count)
    trains = {
        one.cell.folder: number % ranks.count
        for number, share in enumerate(shares)
        for one in share.values()
    }
    pictures = training_pictures(
        study, counts=directory / "pictures.json", rounds=Rounds(ranks, trains)
    )
    mine = [share for share in shares[ranks.rank :: ranks.count] if share]
    train_all(mine, directory, pictures, images=pictures.images, ranks=ranks)


def _notes(cfg: DictConfig, studies: Mapping[str, Study]) -> Path:
    """What these trainings keep until all are finished."""
    name = f".online-{signature({'members': sorted(studies)})}"
    return Path(cfg.paths.experiment) / "sae" / name
