"""One thread a test process: `make test` runs a process a core, and threads that wait for each other waste both."""

import os
import pickle

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hypothesis import settings

from diffusae.cli import config_directory

torch.set_num_threads(1)

settings.register_profile("untimed", deadline=None)  # a busy machine must not fail a test
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def _every_file_of_conf_is_read_once():
    """The tests compose some thousand configs, and Hydra reads thirty files for one: a third of its time."""
    read, kept = FileConfigSource.load_config, {}

    def load_config(self: FileConfigSource, config_path: str):
        if self.path != str(config_directory()):
            return read(self, config_path)
        if config_path not in kept:
            kept[config_path] = pickle.dumps(read(self, config_path))
        return pickle.loads(kept[config_path])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileConfigSource, "load_config", load_config)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The folders that take longest begin, so that no process of `make test` waits for the other at the end."""
    items.sort(key=lambda item: {"pipeline": 0, "stages": 1}.get(item.path.parent.name, 2))
