"""Collect: one pass that records every cell of the grid: of pictures that are generated or given,
or of texts. Pictures whose codes are stored follow when the autoencoders are trained.
"""

from __future__ import annotations

from omegaconf import DictConfig

from diffusae.activations.settings import CollectSettings
from diffusae.collecting.coding import collections_due
from diffusae.collecting.collect import collect_alone, collect_part, merge_parts
from diffusae.study.study import Study


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
    settings = CollectSettings.of(cfg)
    in_parts = settings.part is not None or settings.merge is not None
    made = [_collected(one, settings) for one in collections_due(study, in_parts=in_parts)]
    return any(made)


def _collected(study: Study, settings: CollectSettings) -> bool:
    if settings.part is not None:
        return collect_part(study, settings.part)
    if settings.merge is not None:
        return merge_parts(study, settings.sources)
    return collect_alone(study)
