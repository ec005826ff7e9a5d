"""What tests of several stages share."""

from pathlib import Path

import pytest

from diffusae.collecting import collect as collecting
from diffusae.planning import timing
from diffusae.runs.record import run_record
from small_collections import stream_of, write_random
from stages.online_study import collected, stored  # noqa: F401  (fixtures)


@pytest.fixture
def unloadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is loaded fails the test."""

    def refuse(*_args, **_values):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(timing, "load_model", refuse)
    monkeypatch.setattr(collecting, "load_model", refuse)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `activations`: 20 training pictures of 10 vectors, of which batches of 64
    end with one of 8.
    """
    root = tmp_path_factory.mktemp("outputs")
    stream, groups = stream_of((2, 5), 32, t=1.0), [("train", 12), ("train", 8), ("validation", 3)]
    activations = root / "activations"
    with run_record(activations, stage="collect", config={}, determines={}, parents={}, seed=0):
        write_random(activations, [stream], groups)
    return root
