"""Train: one sparse autoencoder on the updates of one cell."""

from __future__ import annotations

import logging
from contextlib import nullcontext

from omegaconf import DictConfig

from diffusae.jobs.processes import leads
from diffusae.memory import importing
from diffusae.sae.settings import TrainerSettings
from diffusae.study.study import Study
from diffusae.training.cell import mirror_of, trained

log = logging.getLogger(__name__)


def train(cfg: DictConfig) -> bool:
    """Train the autoencoder of the cell that `timestep`, `block` and `conditioning` choose; False:
    it is finished already.
    """
    study = Study(cfg)
    study.check()
    if trained(study):
        log.info("%s is trained already", study.sae)
        return False
    with importing():
        from diffusae.training.train import train_cell  # torch and Lightning, which take seconds

    with mirror_of(study) if leads(TrainerSettings.of(cfg).processes) else nullcontext() as mirror:
        train_cell(study, mirror, progress=True)
    return True
