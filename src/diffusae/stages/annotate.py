"""Annotate: find the objects in the held-out pictures, once for all cells."""

from __future__ import annotations

import logging

from omegaconf import DictConfig

from diffusae.labelling.annotate import annotate_into, annotated
from diffusae.runs.lock import directory_lock
from diffusae.study.study import Study

log = logging.getLogger(__name__)


def annotate(cfg: DictConfig) -> bool:
    """Annotate the pictures of the splits `dictionary`, `tune` and `test`; False: it is finished
    already.
    """
    study = Study(cfg)
    study.check()
    if annotated(study):  # asked before the lock too: a disk that cannot be written has none
        log.info("%s is annotated already", study.annotations)
        return False
    with directory_lock(study.annotations):
        return annotate_into(study)
