"""Label: the concept dictionary of one cell, from held-out pictures."""

from __future__ import annotations

import logging

from omegaconf import DictConfig

from diffusae.labelling.label import label_cell, labelled, require_in_picture, word_embedding
from diffusae.stages.annotate import annotate
from diffusae.study.study import Study
from diffusae.training.cell import mirror_of

log = logging.getLogger(__name__)


def label(cfg: DictConfig) -> bool:
    """Name the latents of one cell, and annotate the pictures first where need be; False: it is
    finished already.
    """
    study = Study(cfg)
    study.check()
    require_in_picture(study)
    annotate(cfg)
    if labelled(study):
        log.info("%s is labelled already", study.concepts)
        return False
    with mirror_of(study) as mirror:
        label_cell(study, mirror, word_embedding(study))
    return True
