"""What `run` says at its end, whatever becomes of the report."""

import pytest
from omegaconf import OmegaConf

from diffusae.stages import run as stage


def fail(_cfg: object, *, so_far: str) -> None:
    raise KeyError("threshold")


def test_a_report_that_fails_does_not_hide_which_cells_failed(monkeypatch):
    monkeypatch.setattr(stage, "report", fail)
    said = stage._undrawn(OmegaConf.create({}), quietly=True)
    assert said == ". The report is not complete: KeyError: 'threshold'"
    with pytest.raises(KeyError):  # where all cells are done there is nothing to hide
        stage._undrawn(OmegaConf.create({}), quietly=False)
