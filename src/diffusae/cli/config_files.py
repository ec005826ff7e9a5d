"""Where Hydra finds the configuration: our files, read once in a process, then the options of the
user's own packages.

Hydra reads all files of a configuration anew whenever it composes one: three times before a stage
begins, and once more in `run` for each metric.
"""

from __future__ import annotations

import copy
from functools import cache

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin

from diffusae import plugins
from diffusae.cli.configs import config_directory


class OwnFiles(FileConfigSource):
    """Files that do not change while the process runs."""

    @staticmethod
    def scheme() -> str:
        return "diffusae"

    def load_config(self, config_path: str) -> ConfigResult:
        return copy.deepcopy(_read(self.path, config_path))  # Hydra changes what it gets


class OwnOptions(SearchPathPlugin):
    """Our files in the place of the folder that they lie in, and after them plug-ins' options."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        folder = str(config_directory())
        for place in search_path.get_path():
            if place.path == folder:
                place.path = f"{OwnFiles.scheme()}://{folder}"
        for package, options in plugins.options().items():
            search_path.append(provider=package, path=f"file://{options}")


def search_own_options() -> None:
    """Let Hydra read our files once, and find the options that plug-ins bring in their folders
    `conf`, after ours.
    """
    Plugins.instance().register(OwnFiles)
    Plugins.instance().register(OwnOptions)


@cache
def _read(folder: str, config_path: str) -> ConfigResult:
    return FileConfigSource("main", folder).load_config(config_path)
