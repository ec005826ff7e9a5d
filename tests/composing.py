"""Configurations of stages, composed of conf/ as the command composes them."""

from collections.abc import Sequence
from typing import Any

import hydra
from omegaconf import DictConfig

from diffusae.cli import config_directory


def compose(stage: str, overrides: Sequence[str] = (), **options: Any) -> DictConfig:
    """The configuration of a stage with these overrides; `options` as `hydra.compose` has them."""
    with hydra.initialize_config_dir(str(config_directory()), version_base="1.3"):
        return hydra.compose(stage, overrides=list(overrides), **options)
