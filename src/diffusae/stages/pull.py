"""Pull: an autoencoder from a model hub, or from a directory, as the autoencoder of one cell."""

from __future__ import annotations

import logging

from omegaconf import DictConfig

from diffusae.hub.contents import CONFIG, WEIGHTS
from diffusae.hub.repository import HubUnreachable
from diffusae.hub.settings import PullSettings
from diffusae.study.study import Study
from diffusae.training.pulled import pull_from, pulled_before

log = logging.getLogger(__name__)


def pull(cfg: DictConfig) -> bool:
    """Write `sae/<cell>/` from a repository; `label` and `evaluate` go on with it under the same
    `sae.tag`. False: it is here already.
    """
    study = Study(cfg)
    study.check()
    settings = PullSettings.of(cfg)
    try:
        return pull_from(study, settings)
    except HubUnreachable as error:
        if pulled_before(study, settings.repo):
            log.warning("%s; %s, which was pulled before, serves", error, study.sae)
            return False
        raise HubUnreachable(
            f"{error}; to do without it, put {WEIGHTS} and {CONFIG} of the SAE into a directory and"
            " give repo=DIRECTORY"
        ) from error
