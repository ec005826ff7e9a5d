"""A small synthetic study for all tests of this folder."""

from pathlib import Path

import pytest

import diffusae
from diffusae.explorer.catalogue import Catalogue
from diffusae.exploring.opened import OpenStudy
from explorer.synthetic_study import place_synthetic_study


@pytest.fixture(scope="session")
def synthetic_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's directory; whoever changes it copies it first."""
    return place_synthetic_study(tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="session")
def synthetic(synthetic_directory: Path) -> OpenStudy:
    return diffusae.open(synthetic_directory)


@pytest.fixture(scope="session")
def catalogue(synthetic: OpenStudy) -> Catalogue:
    return Catalogue.of(synthetic.cells)
