"""The table at the end of a multirun: errors of all kinds in one line, whatever the width and
whoever launches.
"""

import logging
import pickle
import warnings

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from diffusae.errors import UserError
from diffusae.jobs.outcomes import JobOutcome, OutcomeTable, print_outcomes, reason

LONG = "k=900 exceeds [bold]d_sae=64[/]; " + "lower sae.k, " * 30


def ended(number: int, value: object, overrides: list[str]) -> tuple[object, JobReturn]:
    hydra = {"mode": "MULTIRUN", "job": {"num": number}}
    failed = isinstance(value, Exception)
    job = JobReturn(overrides=overrides, cfg=OmegaConf.create({"block": {}}))
    job.return_value, job.status = value, JobStatus.FAILED if failed else JobStatus.COMPLETED
    config = OmegaConf.create({"hydra": hydra})
    from hydra.types import RunMode

    config.hydra.mode = RunMode.MULTIRUN
    return config, job


def test_a_message_of_several_lines_becomes_one_and_a_fault_of_ours_names_its_type():
    assert reason(UserError("two faults:\n  - k=0\n  - t=2")) == "two faults: - k=0 - t=2"
    assert reason(ZeroDivisionError("division by zero")) == "ZeroDivisionError: division by zero"


def test_a_log_gets_whole_lines_without_markup(capsys):
    assert not print_outcomes(
        [JobOutcome("mid", "failed", LONG.strip()), JobOutcome("up", "skipped")]
    )
    printed = capsys.readouterr().err
    assert LONG.strip() in printed
    assert "1 of 2 jobs failed (1 skipped, 1 failed)" in printed
    assert "The same command runs only the failed ones again." in printed


def test_nothing_failed_is_said_as_such(capsys):
    assert print_outcomes([JobOutcome("mid", "done"), JobOutcome("up", "done")])
    printed = capsys.readouterr().err
    assert "2 done" in printed
    assert "fail" not in printed


def test_outcomes_of_other_processes_come_together_in_the_order_of_the_jobs(
    tmp_path, capsys, caplog
):
    table = OutcomeTable()
    start = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path / "logs")}}})
    table.on_multirun_start(start)
    values = [
        (1, RuntimeError("boom"), ["debug=tiny", "block=up"]),
        (0, False, ["debug=tiny", "block=mid"]),
    ]
    with warnings.catch_warnings(), caplog.at_level(logging.ERROR):
        warnings.simplefilter("error")
        for number, value, overrides in values:
            elsewhere = pickle.loads(pickle.dumps(table))
            config, job = ended(number, value, overrides)
            elsewhere.on_job_start(config)
            elsewhere.on_job_end(config, job)
            assert job.return_value in (None, False)  # a sweeper that asks gets no error
    assert "Traceback" in caplog.text  # a fault of ours is shown where it arises
    with pytest.raises(SystemExit) as raised:
        table.on_multirun_end(start)
    assert raised.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("│")]
    assert ["block=mid" in lines[0], "skipped" in lines[0], "debug" in lines[0]] == [
        True,
        True,
        False,
    ]
    assert "block=up" in lines[1] and "RuntimeError: boom" in lines[1]
