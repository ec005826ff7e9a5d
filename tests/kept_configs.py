"""What Hydra need not do twice in a test process: read conf/, and put its files together.

The tests compose some thousand configurations of a few hundred choices of files. Hydra takes a
fifth of a second for one: 6 % for the values on the command line, and the rest for the files.
"""

import pickle
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hydra._internal import config_loader_impl as loading
from hydra._internal import defaults_list as listing
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf

from diffusae.cli import config_directory


def keep_configs(patch: pytest.MonkeyPatch) -> None:
    """Keep what is made of conf/ alone; with files from elsewhere Hydra does all its work."""
    Plugins.instance()  # which registers the kinds of sources
    _keep_files(patch)
    _keep_choices(patch)
    _skip_maps(patch)


def _keep_files(patch: pytest.MonkeyPatch) -> None:
    files: Any = SourcesRegistry.instance().resolve("file")
    read, kept = files.load_config, {}

    def load_config(self: Any, config_path: str) -> Any:
        if self.path != str(config_directory()):
            return read(self, config_path)
        if config_path not in kept:
            kept[config_path] = pickle.dumps(read(self, config_path))
        return pickle.loads(kept[config_path])

    patch.setattr(files, "load_config", load_config)


def _skip_maps(patch: pytest.MonkeyPatch) -> None:
    """Hydra makes a map of all choices for every file, for options that name another choice. No
    option of ours does.
    """
    make = listing._create_interpolation_map

    def interpolation_map(overrides: Any, options: Any, *others: Any) -> DictConfig:
        if any("${" in str(vars(option)) for option in options):
            return make(overrides, options, *others)
        return OmegaConf.create({})

    patch.setattr(listing, "_create_interpolation_map", interpolation_map)


def _keep_choices(patch: pytest.MonkeyPatch) -> None:
    """The list of files that a choice of options means, and the configuration that they are."""
    choose, loader = loading.create_defaults_list, loading.ConfigLoaderImpl
    put_together = loader._compose_config_from_defaults_list
    chosen: dict[Any, DefaultsList] = {}
    composed: dict[int, bytes] = {}

    def create_defaults_list(
        repo: Any, config_name: str | None, overrides_list: Sequence[Any], **options: Any
    ) -> DefaultsList:
        given = [source.path for source in repo.get_sources() if source.scheme() == "file"]
        if given != [str(config_directory())]:
            return choose(repo, config_name, list(overrides_list), **options)
        values = Overrides(repo, list(overrides_list)).config_overrides
        groups = [one for one in overrides_list if not any(one is value for value in values)]
        key = (config_name, *(one.input_line for one in groups), *options.items())
        if key not in chosen:
            chosen[key] = choose(repo, config_name, groups, **options)
        return replace(chosen[key], config_overrides=values)

    def compose(self: Any, defaults: Any, repo: Any) -> DictConfig:
        if not any(defaults is known.defaults for known in chosen.values()):
            return put_together(self, defaults, repo)
        if id(defaults) not in composed:
            composed[id(defaults)] = pickle.dumps(put_together(self, defaults, repo))
        return pickle.loads(composed[id(defaults)])

    patch.setattr(loading, "create_defaults_list", create_defaults_list)
    patch.setattr(loader, "_compose_config_from_defaults_list", compose)
