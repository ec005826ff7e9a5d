"""Collect: one pass that records every cell of the grid: of pictures that are generated or given,
or of texts. Pictures whose codes are stored follow when the autoencoders are trained.
"""

from __future__ import annotations

import logging

from omegaconf import DictConfig, OmegaConf

from diffusae.activations.local_copy import COPY_FILE, SOURCE_REMEDY
from diffusae.activations.parts import Part
from diffusae.activations.places import require_inside
from diffusae.collecting.coding import untrained
from diffusae.collecting.collect import collect_into, collect_part, merge_parts
from diffusae.collecting.tasks import refuse_running
from diffusae.errors import UserError
from diffusae.runs.lock import directory_lock
from diffusae.study.study import Study

log = logging.getLogger(__name__)


def collect(cfg: DictConfig) -> bool:
    """Record everything once and write the updates of every cell; whole groups are never redone.
    False: it is finished already.

    With `collect.shard=i/n`, only this task's share, beside the other tasks; the last one to end
    finishes the whole. With `collect.merge`, nothing is recorded: the parts of other directories
    are brought together.

    With `activations.held_out=codes` this is first the collection without dictionary, tune and test
    pictures. When every autoencoder of the grid is trained, it is also that of these pictures and
    their codes.
    """
    study = Study(cfg)
    study.check()
    require_inside(study.activations)
    if cfg.activations.source is None and (study.activations / COPY_FILE).exists():
        raise UserError(
            f"{study.activations} is not collected here: {SOURCE_REMEDY}, or choose another name"
        )
    due = [study]
    if study.held_out.coded:
        if waiting := untrained(study):
            log.info(
                "dictionary, tune and test pictures wait for %d of %d autoencoders, which encode"
                " them; run `diffusae collect` again when all are trained",
                len(waiting),
                len(study.trainings),
            )
        else:
            parts = any(OmegaConf.select(cfg, f"collect.{name}") for name in ("shard", "merge"))
            due = [study.held_out] if parts else [study, study.held_out]
    made = [_collected(one) for one in due]
    return any(made)


def _collected(study: Study) -> bool:
    cfg = study.cfg
    shard, sources = OmegaConf.select(cfg, "collect.shard"), OmegaConf.select(cfg, "collect.merge")
    if shard is not None and sources is not None:
        raise UserError(
            "collect.shard and collect.merge exclude each other; merge when all parts are collected"
        )
    if shard is not None:
        return collect_part(study, Part.parse(shard))
    with directory_lock(study.activations):
        refuse_running(study.activations)
        if sources is not None:
            listed = [sources] if isinstance(sources, str) else sources
            return merge_parts(study, [str(source) for source in listed])
        return collect_into(study)
