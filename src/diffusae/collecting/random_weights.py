"""A second collection of the same pictures, through a denoiser with random weights: a baseline of
linear probes.
"""

from __future__ import annotations

import copy

from diffusae.study.study import Study


def random_study(study: Study, folder: str) -> Study:
    """The same study with another collection: in `folder` of its directory, from a denoiser with
    random weights.
    """
    cfg = copy.deepcopy(study.cfg)
    cfg.collection.random_weights = True
    cfg.paths.activations = str(study.directory / folder)
    cfg.activations.source = None  # which is that of the trained weights
    return Study(cfg)
