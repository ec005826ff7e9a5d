"""What a person sees of long work: bars on a terminal, a line a minute in a log, and a time left
that is right.
"""

import logging
import threading

import pytest
import pytorch_lightning as pl
from pytorch_lightning.demos.boring_classes import BoringModel
from rich.console import Console as Terminal

from diffusae.jobs import progress
from diffusae.jobs.progress import Work, at_work, duration, pace, progress_bar
from diffusae.jobs.training_progress import TrainingProgress


def train(*callbacks: pl.Callback) -> None:
    trainer = pl.Trainer(
        max_steps=150,
        max_epochs=-1,
        limit_train_batches=20,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        callbacks=[TrainingProgress(every=10), *callbacks],
    )
    trainer.fit(BoringModel())


def test_the_bar_counts_the_steps_of_all_epochs(capsys):
    train()
    shown = capsys.readouterr().out
    assert "150/150" in shown and "steps/s" in shown


class FailsAt(pl.Callback):
    def on_train_batch_start(self, trainer, *_args):
        if trainer.global_step == 40:
            raise ValueError("here")


def test_a_training_that_fails_leaves_the_bar_where_it_was(capsys):
    with pytest.raises(ValueError, match="here"):
        train(FailsAt())
    shown = capsys.readouterr().out
    assert " 40/150" in shown and "150/150" not in shown


class Clock:
    """A clock that a test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_time_left_comes_of_all_units_since_the_beginning():
    clock = Clock()
    work = Work("cells", 18, 3, clock=clock)  # 3 of an earlier run took no time of this one
    assert (work.rate, work.seconds_left) == (None, None)
    clock.now += 60
    assert work.clause() == "3/18 cells, begun 1 min 00 s ago"
    for _ in range(2):
        clock.now += 570
        work.advance(1)
    assert work.rate == pytest.approx(2 / 1200)
    assert work.seconds_left == pytest.approx(13 * 600)
    clock.now += 240  # of the unit at hand
    assert work.seconds_left == pytest.approx(13 * 600 - 240)
    work.description = "mid-t0.50-cond"
    assert work.clause() == "mid-t0.50-cond: 5/18 cells, 6 cells/h, 2 h 06 min left"
    clock.now += 1560  # that unit takes three times as long as the others: 3000 s for three
    assert work.seconds_left == pytest.approx(13 * 3000 / 3)
    work.advance(13)
    assert work.seconds_left == 0


def test_rates_and_durations_are_in_units_that_a_person_reads():
    assert [pace(rate, "cells") for rate in (340.0, 0.5, 1 / 1200)] == [
        "340.0 cells/s",
        "30.0 cells/min",
        "3 cells/h",
    ]
    assert [duration(s) for s in (0.4, 59.6, 425, 11520)] == [
        "0 s",
        "1 min 00 s",
        "7 min 05 s",
        "3 h 12 min",
    ]


class Told(logging.Handler):
    """Keeps lines and tells when there are enough."""

    def __init__(self, wanted: int) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.wanted, self.enough = wanted, threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        if len(self.lines) >= self.wanted:
            self.enough.set()


@pytest.fixture
def reported(monkeypatch):
    handler = Told(wanted=3)
    monkeypatch.setattr(progress, "INTERVAL_S", 0.01)
    progress.log.addHandler(handler)
    monkeypatch.setattr(progress.log, "level", logging.INFO)
    yield handler
    progress.log.removeHandler(handler)


def test_a_log_is_told_of_all_works_within_each_other_though_nothing_advances(reported, capsys):
    with at_work("run"), progress_bar("cells", total=18, done=3) as (_, name):
        name("cell mid")
        with progress_bar("pictures", total=4) as (advance, _):
            advance(1)
            assert reported.enough.wait(20)
    inner = [line for line in reported.lines if "pictures" in line]
    assert inner and inner[-1].startswith(
        "run for 0 s; cell mid: 3/18 cells, begun 0 s ago; 1/4 pictures, "
    )
    assert "\x1b" not in capsys.readouterr().out
    assert not progress._Works.open and progress._Works.stop is None


def test_after_the_last_work_nothing_is_told_any_more(reported):
    with at_work("label"):
        assert reported.enough.wait(20)
    (thread,) = [thread_ for thread_ in threading.enumerate() if thread_.name == "progress"] or [
        None
    ]
    if thread is not None:
        thread.join(20)
        assert not thread.is_alive()


def test_nothing_is_shown_where_nothing_is_left_to_do(capsys):
    with progress_bar("cells", total=3, done=3) as (advance, _):
        advance(0)
    assert capsys.readouterr().out == ""


def test_works_within_each_other_share_one_display_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(progress, "Console", lambda: Terminal(force_terminal=True, width=100))
    with at_work("run"), progress_bar("cells", total=2) as (advance, name):
        name("cell mid")
        with progress_bar("pictures", total=4) as (inner, _):
            inner(4)
        advance(1)
    shown = capsys.readouterr().out
    assert "pictures 4/4" in shown and "cells 1/2" in shown


def test_a_reader_that_has_gone_does_not_end_the_work(monkeypatch):
    def gone(*_args: object, **_kwargs: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", gone)
    with progress_bar("cells", total=1) as (advance, _):
        advance(1)
