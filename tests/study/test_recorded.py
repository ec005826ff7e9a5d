"""`Study.recorded`: the lock and the run.json of whatever a command makes."""

from pathlib import Path

import pytest

from composing import compose
from diffusae.runs.lock import holder
from diffusae.runs.record import read_record
from diffusae.study.study import Study


@pytest.fixture
def study() -> Study:
    return Study(compose("train", overrides=["debug=tiny", "seed=7"]))


def test_a_directory_is_held_while_it_is_made_and_finished_afterwards(study, tmp_path: Path):
    with study.recorded(tmp_path, "label", determines={"k": 1}, block={"name": "up"}):
        assert holder(tmp_path) is not None
        record = read_record(tmp_path)
        assert record is not None and record.status == "running"
    assert holder(tmp_path) is None
    record = read_record(tmp_path)
    assert record is not None
    assert (record.stage, record.status, record.seed) == ("label", "finished", 7)
    assert (record.determines, record.parents) == ({"k": 1}, {})
    assert record.config == study.config() | {"block": {"name": "up"}}


def test_a_caller_that_holds_the_directory_is_not_held_up(study, tmp_path: Path):
    with study.recorded(tmp_path, "label", determines={}, locks=False, seed=None):
        assert holder(tmp_path) is None
    record = read_record(tmp_path)
    assert record is not None and record.seed is None
