"""Configurations of stages, composed of conf/ as the command composes them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import hydra
from omegaconf import DictConfig

from diffusae.cli import config_directory
from diffusae.concepts.settings import DictionarySettings


def compose(stage: str, overrides: Sequence[str] = (), **options: Any) -> DictConfig:
    """The configuration of a stage with these overrides; `options` as `hydra.compose` has them."""
    with hydra.initialize_config_dir(str(config_directory()), version_base="1.3"):
        return hydra.compose(stage, overrides=list(overrides), **options)


def dictionary_settings(**options: Any) -> DictionarySettings:
    """The shipped settings of dictionaries with these values."""
    return replace(DictionarySettings.of(compose("label")), **options)
