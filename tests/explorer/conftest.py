"""The tiny study of `exploring/tiny_study.py` in the explorer."""

from pathlib import Path

import pytest
from starlette.testclient import TestClient

import diffusae
from diffusae.explorer.app import build_app
from diffusae.explorer.explored import Explored
from diffusae.explorer.security import Security
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
