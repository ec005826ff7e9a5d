"""One tiny finished study for all tests of this folder."""

from pathlib import Path
from typing import Any

import pytest

import diffusae
from diffusae.exploring.opened import OpenStudy
from diffusae.exploring.recording import RecordedRun
from diffusae.study.model import load_model
from exploring.tiny_study import place_study


@pytest.fixture(scope="session", autouse=True)
def _the_model_is_loaded_once():
    """Loading it takes longer than making a picture."""

    pipes: dict[str, Any] = {}

    def load_once(model: Any) -> Any:
        if model.source not in pipes:
            pipes[model.source] = load_model(model)
        return pipes[model.source]

    with pytest.MonkeyPatch.context() as patch:
        for module in ("steering.edited", "exploring.opened", "stages.look", "stages.steer_list"):
            patch.setattr(f"diffusae.{module}.load_model", load_once)
        yield


PROMPT = "a flat drawing of a red fish"


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's directory; whoever changes it copies it first."""
    return place_study(tmp_path_factory.mktemp("outputs"))


@pytest.fixture(scope="session")
def study(directory: Path) -> OpenStudy:
    return diffusae.open(directory)


@pytest.fixture(scope="session")
def run(study: OpenStudy) -> RecordedRun:
    """A picture, recorded at the two labelled cells."""
    cells = [study.cell("down", t=t) for t in (1.0, 0.5)]
    return study.generate(PROMPT, seed=0, capture=cells)
