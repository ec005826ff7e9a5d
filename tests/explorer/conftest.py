"""The tiny study of `exploring/tiny_study.py` in the explorer, and a synthetic one for what needs
many latents.
"""

from pathlib import Path

import pytest
from starlette.testclient import TestClient

import diffusae
from diffusae.explorer.app import build_app
from diffusae.explorer.catalogue import Catalogue
from diffusae.explorer.explored import Explored
from diffusae.explorer.security import Security
from diffusae.exploring.opened import OpenStudy
from explorer.synthetic_study import place_synthetic_study
from exploring.tiny_study import place_study


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's directory; whoever changes it copies it first."""
    return place_study(tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="session")
def explored(directory: Path) -> Explored:
    return Explored(diffusae.open(directory))


@pytest.fixture
def client(explored: Explored) -> TestClient:
    """A program that asks the explorer, as a browser of this machine would."""
    app = build_app(explored, Security("127.0.0.1"))
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


@pytest.fixture(scope="session")
def synthetic_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the synthetic study; whoever changes it copies it first."""
    return place_synthetic_study(tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="session")
def synthetic(synthetic_directory: Path) -> OpenStudy:
    return diffusae.open(synthetic_directory)


@pytest.fixture(scope="session")
def catalogue(synthetic: OpenStudy) -> Catalogue:
    return Catalogue.of(synthetic.cells)


@pytest.fixture(scope="session")
def finder(synthetic: OpenStudy) -> TestClient:
    """A program that asks the explorer of the synthetic study."""
    app = build_app(Explored(synthetic), Security("127.0.0.1"))
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
