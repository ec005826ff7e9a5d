import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusae.errors import UserError
from diffusae.runs.metric_log import MetricLog, read_metrics


def test_rows_can_be_read_while_the_log_is_open(tmp_path: Path):
    path = tmp_path / "a" / "metrics.jsonl"
    with MetricLog(path) as log:
        log.log({"step": 0, "split": "train", "loss": 0.5})
        assert read_metrics(path) == [{"step": 0, "split": "train", "loss": 0.5}]


def test_a_log_that_is_opened_again_goes_on(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    for step in range(3):
        with MetricLog(path) as log:
            log.log({"step": step})
    assert [row["step"] for row in read_metrics(path)] == [0, 1, 2]


def test_what_is_not_finite_becomes_null_and_is_named(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    with MetricLog(path) as log:
        log.log(
            {"step": 1, "loss": math.nan, "l0": torch.tensor(torch.inf), "fvu": np.float32(0.5)}
        )
    assert read_metrics(path) == [
        {"step": 1, "loss": None, "l0": None, "fvu": 0.5, "nonfinite": ["loss", "l0"]}
    ]


def test_a_line_cut_by_a_kill_costs_that_row_only(tmp_path: Path, caplog):
    path = tmp_path / "metrics.jsonl"
    with MetricLog(path) as log:
        log.log({"step": 0})
        log.log({"step": 1, "note": "ä"})
    whole = path.read_bytes()
    first = len(b'{"step": 0}\n')
    for length in range(first, len(whole)):
        path.write_bytes(whole[:length])
        assert read_metrics(path) == [{"step": 0}]
        with MetricLog(path) as log:
            log.log({"step": 2})
        assert read_metrics(path) == [{"step": 0}, {"step": 2}]
    assert "ends in a cut line" in caplog.text


def test_a_log_that_was_never_begun_has_no_rows(tmp_path: Path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


finite = st.floats(allow_nan=False, allow_infinity=False)
row = st.dictionaries(st.text(min_size=1), st.integers() | st.text() | finite, max_size=3)


@settings(max_examples=30, deadline=None)
@given(st.lists(row, max_size=4))
def test_every_plain_row_comes_back(rows: list[dict]):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        with MetricLog(path) as log:
            for one in rows:
                log.log(one)
        assert read_metrics(path) == rows


@pytest.mark.parametrize("line", [b'{"step": 1', b"[1]", b"\xff", b"[" * 100_000])
def test_a_damaged_line_is_named_with_its_number(tmp_path: Path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 0}\n' + line + b"\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged: .*; remove line 2"):
        read_metrics(path)
