"""The collection beside a study's own: the same pictures through a denoiser that learnt nothing, as
a baseline for probes.
"""

from __future__ import annotations

import copy

from diffusae.study.study import Study


def random_study(study: Study, folder: str) -> Study:
    """The study whose collection lies in `folder` of its directory and comes from re-drawn weights;
    nothing else differs.
    """
    cfg = copy.deepcopy(study.cfg)
    cfg.collection.random_weights = True
    cfg.paths.activations = str(study.directory / folder)
    cfg.activations.source = None  # which is that of the trained weights
    return Study(cfg)
