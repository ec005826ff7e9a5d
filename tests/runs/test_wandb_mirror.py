import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]  # made at import

from diffusae.errors import UserError
from diffusae.runs import wandb_mirror
from diffusae.runs.metric_log import MetricLog, read_metrics
from diffusae.runs.wandb_mirror import WandbMirror
from diffusae.runs.wandb_mode import chosen_mode, run_id, valid_run_id
from wandb_records import history_of, records_of, values_of


@pytest.fixture(autouse=True)
def sealed(monkeypatch, tmp_path: Path) -> None:
    """An environment without the user's key and settings."""
    for name in [name for name in os.environ if name.startswith("WANDB_")] + ["NETRC"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def mirror(directory: Path, **options) -> WandbMirror:
    values = {
        "project": "p",
        "group": "sweep",
        "name": "mid-t0.50-cond",
        "run_id": "run1",
        "config": {"sae": {"k": 10}},
    }
    return WandbMirror(directory, **{**values, **options})


def exit_codes_of(records: list[Record]) -> list[int]:
    return [record.exit.exit_code for record in records if record.HasField("exit")]


def test_an_offline_run_holds_what_the_local_log_holds(tmp_path: Path):
    with (
        MetricLog(tmp_path / "metrics.jsonl") as log,
        mirror(tmp_path / "wb", timeout_s=200.0) as wb,
    ):
        for step in range(0, 40, 4):
            row = {"train/loss": 1 / (1 + step), "train/l0": np.float32(step / 2)}
            log.log({"step": step, **row})
            wb.log(row, step=step)
        wb.table("latents", ["latent", "label"], [[0, "cat"], [1, "dog"]])
        wb.panel("picture", [("before", np.full((4, 6, 3), 200, np.uint8))])
        wb.log({"val/fvu": 0.25}, step=36)
        wb.summary({"fvu": 0.125})
    assert wb.mode == "offline"
    records = records_of(tmp_path / "wb")
    for metric in ("train/loss", "train/l0"):
        local = {row["step"]: row[metric] for row in read_metrics(tmp_path / "metrics.jsonl")}
        assert len(local) == 10
        assert history_of(records, metric) == pytest.approx(local)
    assert history_of(records, "val/fvu") == {36: 0.25}
    run = next(record.run for record in records if record.HasField("run"))
    assert (run.run_id, run.project, run.run_group, run.display_name) == (
        "run1",
        "p",
        "sweep",
        "mid-t0.50-cond",
    )
    assert values_of(run.config.update)["sae"] == {"k": 10}
    summary: dict[str, Any] = {}
    for record in records:
        summary.update(values_of(record.summary.update))
    assert (summary["fvu"], summary["latents.nrows"], summary["picture.width"]) == (0.125, 2, 6)
    assert exit_codes_of(records) == [0]


def test_a_table_and_a_panel_keep_their_pictures_and_captions_below_the_directory(
    tmp_path: Path, monkeypatch
):
    """W&B's default folders, with its cache and staging, stay empty."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    red, blue = (np.full((4, 6, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))
    with mirror(tmp_path / "wb", timeout_s=200.0) as wb:
        wb.log({"loss": 1.0}, step=7)
        wb.table("concepts", ["latent", "labels", "pictures"], [[5, "cat", red], [9, "dog", blue]])
        wb.panel("edit", [("before", red), ("after: no cat", blue)])
    records = records_of(tmp_path / "wb")
    (logged,) = [values_of(record.history.item) for record in records if record.HasField("history")]
    assert (logged["_step"], logged["concepts.nrows"], logged["edit.count"]) == (7, 2, 2)
    assert logged["edit.captions"] == ["before", "after: no cat"]
    (run,) = (tmp_path / "wb" / "wandb").glob("offline-run-*")
    shown = [np.asarray(Image.open(run / "files" / name)) for name in logged["edit.filenames"]]
    assert [picture[0, 0].tolist() for picture in shown] == [[255, 0, 0], [0, 0, 255]]
    # The table is an artifact: what it consists of is staged until `wandb sync`.
    staged = [path.read_bytes() for path in (tmp_path / "wb" / "artifacts" / "staging").iterdir()]
    pictures = [
        np.asarray(Image.open(io.BytesIO(content)))
        for content in staged
        if content[:4] == b"\x89PNG"
    ]
    assert {tuple(picture[0, 0].tolist()) for picture in pictures} == {(255, 0, 0), (0, 0, 255)}
    table, *_ = [json.loads(content) for content in staged if b'"columns"' in content]
    assert [row[:2] for row in table["data"]] == [[5, "cat"], [9, "dog"]]
    assert [row[2]["_type"] for row in table["data"]] == ["image-file", "image-file"]
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]


def test_under_an_agent_of_a_wandb_sweep_the_run_is_the_sweeps_with_our_group_and_coordinates(
    tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "given.yaml").write_text(
        "wandb_version: 1\nblock:\n  value: mid\ntimestep:\n  value: early\n"
    )
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "given1")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", "given.yaml")
    with mirror(
        tmp_path / "wb", mode="offline", timeout_s=200.0, config={"block": "mid", "t": 1.0}
    ) as wb:
        wb.log({"loss": 1.0}, step=0)
    (run,) = [
        record.run for record in records_of(tmp_path / "wb", "given1") if record.HasField("run")
    ]
    assert (run.sweep_id, run.run_group, run.display_name) == ("sweep1", "sweep", "mid-t0.50-cond")
    config = values_of(run.config.update)
    assert (config["block"], config["t"], config["timestep"]) == ("mid", 1.0, "early")


KILLED = """
import os, signal, sys, time
from diffusae.runs.wandb_mirror import WandbMirror
options = {"project": "p", "group": None, "name": "n", "run_id": "r", "config": {}}
with WandbMirror(sys.argv[1], mode="offline", timeout_s=200.0, **options) as wb:
    for step in range(5):
        wb.log({"loss": step / 2}, step=step)
    while wb._requests.qsize():
        time.sleep(0.01)
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_that_is_killed_still_leaves_its_records(tmp_path: Path):
    source = str(Path(wandb_mirror.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": source}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], env=environment, check=False, timeout=250
    )
    assert killed.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while not exit_codes_of(records_of(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    records = records_of(tmp_path)
    assert history_of(records, "loss") == {0: 0, 1: 0.5, 2: 1.0, 3: 1.5, 4: 2.0}
    assert exit_codes_of(records) == [1]


FAKE = """
import os, time

class Settings:
    def __init__(self, **values): pass

class Summary:
    def update(self, values): pass

class Run:
    summary = Summary()
    step = 0
    def log(self, metrics, step):
        if os.environ.get("FAKE_LOG") == "hang": time.sleep(1000)
        if "bad" in metrics: raise TypeError("bad is refused")
        write(f"{step} {sorted(metrics)}")
    def finish(self, exit_code):
        if os.environ.get("FAKE_FINISH") == "hang": time.sleep(1000)
        write(f"finish {exit_code}")

def write(text):
    with open(os.environ["WANDB_DIR"] + "/fake.txt", "a") as file: file.write(text + chr(10))

def init(mode, **values):
    fate = os.environ.get("FAKE_" + mode.upper())
    if fate == "hang": time.sleep(1000)
    if fate == "raise": raise RuntimeError("over quota")
    write(mode)
    return Run()
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch) -> Path:
    """A fake package `wandb` that hangs and raises on demand, first on the process' path."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "wandb.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    return tmp_path / "wb" / "fake.txt"


@pytest.mark.parametrize(
    ("fate", "said"), [("raise", "over quota"), ("hang", "not ready after 5 s")]
)
def test_online_that_fails_or_hangs_falls_back_to_offline_with_every_metric(
    fake, monkeypatch, caplog, fate, said
):
    monkeypatch.setenv("FAKE_ONLINE", fate)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    with mirror(fake.parent, timeout_s=5.0) as wb:
        wb.log({"loss": 1.0}, step=0)
        wb.log({"loss": 0.5}, step=1)
    assert wb.mode == "offline"
    assert f"W&B does not start online: {said}" in caplog.text
    assert fake.read_text().splitlines() == ["offline", "0 ['loss']", "1 ['loss']", "finish 0"]


@pytest.mark.parametrize("fate", ["raise", "hang"])
def test_where_offline_fails_too_the_run_goes_on_without(fake, monkeypatch, caplog, fate):
    monkeypatch.setenv("FAKE_OFFLINE", fate)
    with mirror(fake.parent, timeout_s=0.5) as wb:
        wb.log({"loss": 1.0}, step=0)
        wb.table("t", ["a"], [[1]])
    assert wb.mode == "disabled"
    assert "W&B does not start offline" in caplog.text
    assert not fake.exists()


@pytest.mark.parametrize("where", ["FAKE_LOG", "FAKE_FINISH"])
def test_a_hang_after_the_start_ends_with_its_process(fake, monkeypatch, caplog, where):
    monkeypatch.setenv(where, "hang")
    with mirror(fake.parent) as wb:
        wb.log({"loss": "x" * 200_000}, step=0)  # more than a pipe holds
        wb.log({"loss": "x" * 200_000}, step=1)
        while wb.mode is None:
            time.sleep(0.01)
        wb.timeout_s = 0.3
    assert "W&B" in caplog.text
    assert wb._process is not None
    assert wb._process._child.returncode == -signal.SIGKILL


def test_a_value_that_is_refused_costs_that_value_only(fake, caplog):
    with mirror(fake.parent) as wb:
        wb.log({"bad": 1.0}, step=0)
        wb.log({"loss": 1.0}, step=1)
    assert "bad is refused" in caplog.text
    assert fake.read_text().splitlines() == ["offline", "1 ['loss']", "finish 0"]


def test_what_cannot_be_sent_is_left_out_and_said_and_never_raised(fake, caplog):
    with mirror(fake.parent) as wb:
        wb.log({"loss": np.zeros(3)}, step=0)
        wb.panel("picture", [("before", np.zeros((2, 2, 7), np.uint8))])
        wb.log({"loss": 1.0}, step=1)
    assert caplog.text.count("cannot take a value") == 2
    assert fake.read_text().splitlines() == ["offline", "1 ['loss']", "finish 0"]


def test_a_directory_that_cannot_be_made_disables_the_mirror_only(tmp_path: Path, caplog):
    (tmp_path / "file").write_text("")
    with mirror(tmp_path / "file" / "wb") as wb:
        wb.log({"loss": 1.0}, step=0)
    assert wb.mode == "disabled"
    assert "W&B is given up" in caplog.text


def test_a_lower_step_is_left_out_and_said(fake, caplog):
    with mirror(fake.parent) as wb:
        for step in (3, 2, 3):
            wb.log({"loss": 1.0}, step=step)
    assert "W&B takes no step 2 after 3" in caplog.text
    assert fake.read_text().splitlines()[1:] == ["3 ['loss']", "3 ['loss']", "finish 0"]


def test_a_run_that_fails_is_closed_as_failed_and_its_error_passes(fake):
    with pytest.raises(RuntimeError, match="boom"), mirror(fake.parent):
        raise RuntimeError("boom")
    assert fake.read_text().splitlines() == ["offline", "finish 1"]


def test_disabled_starts_nothing(tmp_path: Path):
    with mirror(tmp_path / "wb", mode="disabled") as wb:
        wb.log({"loss": 1.0}, step=0)
    assert not (tmp_path / "wb").exists()


def test_auto_is_online_only_with_a_key_at_hand(tmp_path: Path):
    home = {"HOME": str(tmp_path)}
    assert chosen_mode(home) == "offline"
    assert chosen_mode({**home, "WANDB_API_KEY": "k"}) == "online"
    assert chosen_mode({**home, "WANDB_API_KEY": "k", "WANDB_MODE": "disabled"}) == "disabled"
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password k\n")
    assert chosen_mode(home) == "online"
    assert chosen_mode({**home, "WANDB_BASE_URL": "https://wandb.example.org"}) == "offline"


@pytest.mark.parametrize(
    "asked", ["dryrun", "Offline", "OFFLINE", "offline", "run", "onlin", "Online", "shared"]
)
def test_auto_goes_online_by_the_very_word_alone(asked: str):
    assert chosen_mode({"WANDB_API_KEY": "k", "WANDB_MODE": asked}) == "offline"
    assert chosen_mode({"WANDB_API_KEY": "k", "WANDB_MODE": " Disabled "}) == "disabled"
    assert chosen_mode({"WANDB_API_KEY": "k", "WANDB_DISABLED": "true"}) == "disabled"


def test_auto_is_offline_where_there_is_no_home_and_where_netrc_is_damaged(tmp_path: Path):
    (tmp_path / ".netrc").write_bytes(b"\xff\xfe machine")
    for home in (str(tmp_path), "/does/not/exist"):
        assert chosen_mode({"HOME": home, "WANDB_API_KEY": " "}) == "offline"
        assert chosen_mode({"HOME": home, "WANDB_BASE_URL": "http://["}) == "offline"


def test_an_id_of_plain_characters_stays_and_every_other_one_becomes_one_of_its_own():
    assert run_id("miniature", "mid-t0.50-cond-k10") == "miniature-mid-t050-cond-k10"
    names = [
        "sub/x",
        "sub#x",
        "sub:x",
        "sub;x",
        "sub,x",
        "sub?x",
        "sub x",
        "süb",
        "sub.x",
        "subx",
        "sub_x",
        "x" * 200,
    ]
    ids = [run_id(name, "mid-t0.50-cond-k10") for name in names]
    assert len(set(ids)) == len(names)
    for made in ids:
        assert len(made) <= 128 and not set(made) & set(":;,#?/' .")
        assert valid_run_id(made) == made


def test_whoever_stops_a_run_does_not_wait_for_a_network_that_hangs(fake, monkeypatch):
    monkeypatch.setattr(wandb_mirror, "_AFTER_STOP_S", 0.05)
    monkeypatch.setenv("FAKE_OFFLINE", "hang")
    wb = mirror(fake.parent, timeout_s=1000)
    with pytest.raises(SystemExit), wb:
        sys.exit(130)
    while wb._process is None:
        time.sleep(0.01)
    wb._process.kill()
    assert not fake.exists()


def test_an_unknown_mode_and_a_timeout_of_nothing_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"unknown W&B mode 'onlin'; .* Did you mean 'online'"):
        mirror(tmp_path, mode="onlin")
    with pytest.raises(UserError, match="timeout_s=0 must be above 0"):
        mirror(tmp_path, timeout_s=0)
