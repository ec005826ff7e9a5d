"""What `run` says while it is at work and at its end, whatever becomes of the report."""

import pytest
from omegaconf import OmegaConf

from composing import compose
from diffusae.errors import UserError
from diffusae.stages import run as stage
from diffusae.study.study import Study


def fail(_cfg: object, *, so_far: str) -> None:
    raise KeyError("threshold")


def test_a_report_that_fails_does_not_hide_which_cells_failed(monkeypatch):
    monkeypatch.setattr(stage, "report", fail)
    said = stage._undrawn(OmegaConf.create({}), quietly=True)
    assert said == ". The report is not complete: KeyError: 'threshold'"
    with pytest.raises(KeyError):  # where all cells are done there is nothing to hide
        stage._undrawn(OmegaConf.create({}), quietly=False)


@pytest.fixture
def carried_out(monkeypatch):
    """What happens when cells are carried out, of which the first fails: reports as well."""
    events: list[str] = []

    def carry_out(studies, *_, **__) -> None:
        name = next(iter(studies.values())).cell_name
        events.append(name)
        if len(events) == 1:
            raise UserError("no space left")

    monkeypatch.setattr(stage, "_carry_out", carry_out)
    monkeypatch.setattr(stage, "report", lambda _, *, so_far: events.append(so_far))

    def of(count: int, *, finished: int = 0) -> list[str]:
        study = Study(compose("run", ["metrics=[reconstruction]"]))
        cells = {cell: {"reconstruction": study.at(cell)} for cell in study.grid[:count]}
        done = {stage._one(studies).cell_name for studies in list(cells.values())[:finished]}
        monkeypatch.setattr(stage, "_finished", lambda of: stage._one(of).cell_name in done)
        stage._cells(study, cells)
        return events

    return of


def test_the_first_cell_that_is_done_is_reported_before_the_next_one(carried_out):
    assert carried_out(3) == [
        "down-t1.00-cond-k10",
        "down-t1.00-uncond-k10",
        "1 of 3 cells",
        "down-t0.50-cond-k10",
    ]


def test_cells_of_an_earlier_command_count_in_the_first_report(carried_out):
    assert carried_out(5, finished=2)[2] == "3 of 5 cells"


def test_a_single_cell_has_the_report_at_the_end_alone(carried_out):
    assert carried_out(3, finished=2) == ["down-t0.50-cond-k10"]


def test_a_first_report_that_fails_is_said_and_stops_nothing(carried_out, monkeypatch, caplog):
    monkeypatch.setattr(stage, "report", fail)
    assert len(carried_out(3)) == 3
    assert "no first report. The report is not complete: KeyError: 'threshold'" in caplog.text
