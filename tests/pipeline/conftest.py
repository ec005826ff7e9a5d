"""A small random pipeline of every family, in its folder."""

from pathlib import Path

import pytest

from tiny_families import tiny_family


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / family
    tiny_family(family).save_pretrained(folder)
    return folder
