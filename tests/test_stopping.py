"""Ctrl-C and SIGTERM, wherever they come: one line, an exit code, and nothing that takes them for a
failure.
"""

import os
import signal
import subprocess
import sys

import pytest

from cli_trials import command
from diffusae import stopping
from diffusae.cli.command import _explained
from diffusae.errors import UserError
from diffusae.stopping import StopSignal, raise_if_received, stopped_by_signals

SENT = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "stopped by SIGTERM")]


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture
def at_work(monkeypatch, capsys, tmp_path):
    """A function that runs `diffusae train` with this as its stage."""

    def run(stage, *words):
        monkeypatch.setattr("diffusae.cli.command._function", lambda _: stage)
        return command(monkeypatch, capsys)(
            "train", "debug=tiny", f"paths.outputs={tmp_path}", *words
        )

    return run


def swallowed(_cfg: object, number: int = signal.SIGINT) -> None:
    try:
        send(number)
    except BaseException:
        raise RuntimeError("what the signal broke") from None


@pytest.mark.parametrize(("number", "code", "how"), SENT)
def test_a_stage_that_is_told_to_stop_ends_with_one_line_and_its_code(at_work, number, code, how):
    before = signal.getsignal(
        signal.SIGINT
    )  # ignored, where the tests themselves run in the background
    for stage in (lambda _cfg: send(number), lambda _cfg: swallowed(_cfg, number)):
        ended = at_work(stage)
        assert ended.code == code
        assert ended.err == f"diffusae train: {how}; the same command goes on\n"
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(("number", "code", "how"), SENT)
def test_a_multirun_that_is_told_to_stop_goes_to_no_further_job(at_work, number, code, how):
    jobs = []
    for stage in (lambda _cfg: send(number), lambda _cfg: swallowed(_cfg, number)):
        ended = at_work(
            lambda cfg, stage=stage: (jobs.append(cfg.block.name), stage(cfg)), "-m", "block=mid,up"
        )
        assert ended.code == code
        assert ended.err.count("the same command goes on") == 1 and "Traceback" not in ended.err
    assert jobs == ["mid", "mid"]


@pytest.mark.parametrize(("number", "code", "how"), SENT)
def test_a_signal_while_the_configuration_is_composed_ends_in_one_line(
    monkeypatch, capsys, number, code, how
):
    monkeypatch.setattr("diffusae.cli.configs.Composer.compose", lambda *_: send(number))
    ended = command(monkeypatch, capsys)("train")
    assert (ended.code, ended.err) == (code, f"diffusae train: {how}; the same command goes on\n")


def test_a_signal_that_something_swallowed_is_raised_again_at_the_next_question():
    with stopped_by_signals():
        raise_if_received()
        with pytest.raises(StopSignal):
            send(signal.SIGTERM)
        with pytest.raises(StopSignal):
            raise_if_received()
    raise_if_received()


def test_a_job_that_a_script_starts_beside_itself_is_interrupted_too():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(StopSignal), stopped_by_signals():
            send(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_ctrl_c_ends_the_process_at_once():
    script = (
        "import os, signal\nfrom diffusae.stopping import stopped_by_signals\n"
        "with stopped_by_signals():\n"
        "    for _ in range(2):\n"
        "        try: os.kill(os.getpid(), signal.SIGINT)\n"
        "        except BaseException: pass\n"
        "print('went on')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 130
    assert "went on" not in ended.stdout and ended.stderr.strip().startswith("ended at once")


def test_a_stop_is_no_failure_of_a_cell_of_run(monkeypatch):
    run = pytest.importorskip("diffusae.stages.run")
    monkeypatch.setattr(stopping, "_received", signal.SIGINT)
    before = run.JobOutcome("mid", "skipped")

    def broken() -> None:
        raise RuntimeError("a worker has gone")

    for work in (broken, lambda: None):
        with pytest.raises(StopSignal):
            run._outcome("mid", work, before, 0.0)


def test_an_interrupt_explains_nothing_else():
    assert _explained(RuntimeError("x"), "train") is None


def test_an_error_of_the_users_is_one_line_and_one_of_ours_keeps_its_traceback(at_work):
    def raises(error):
        def stage(_cfg):
            raise error

        return stage

    ended = at_work(raises(UserError("k=900 exceeds d_sae=64; lower sae.k")))
    assert (ended.code, ended.err) == (2, "diffusae train: k=900 exceeds d_sae=64; lower sae.k\n")
    with pytest.raises(ZeroDivisionError) as ours:
        at_work(raises(ZeroDivisionError("here")))
    assert any(entry.name == "stage" for entry in ours.traceback)
