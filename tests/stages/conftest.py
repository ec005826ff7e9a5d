"""What tests of several stages share."""

import pytest

from diffusae.collecting import collect as collecting
from diffusae.planning import timing
from stages.online_study import collected, stored  # noqa: F401  (fixtures)


@pytest.fixture
def unloadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is loaded fails the test."""

    def refuse(*_args, **_values):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(timing, "load_model", refuse)
    monkeypatch.setattr(collecting, "load_model", refuse)
