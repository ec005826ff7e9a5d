"""The campaign's judgement of wrong bytes, missing files and errors without a remedy."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from random import Random

import pytest

from faults import ending
from faults.command import Blow, Ended, Writes, run
from faults.damage import WAYS
from faults.ending import to_the_end
from faults.judge import Difference, differences, is_result
from faults.kills import fault_of
from faults.kinds import kind_of
from faults.remedy import carry_out, message_of
from faults.study import STEPS, Step
from faults.table import BEGIN, END, as_json, as_markdown, failures, write_into
from faults.trials import Result, Trial
from faults.trials import carry_out as carry_out_trials

STEP = Step("evaluate", ("evaluate",), None)
OUTPUT = {"size": 3, "mtime_ns": 1, "sha256": "a"}
RECORD = {"stage": "train", "pid": 1, "started": "now", "outputs": {"sae": OUTPUT}}
RIGHT = {"sae/a.bin": "right", "sae/b.bin": "right", "sae/run.json": json.dumps(RECORD)}


def place(directory: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = directory / "outputs" / "tiny" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return place(tmp_path / "reference", RIGHT)


def says(monkeypatch: pytest.MonkeyPatch, *ends: tuple[int, str, dict[str, str]]) -> None:
    """Replace the command by these ends, in their order: exit code, stderr, and files it leaves."""
    waiting = list(ends)

    def run(arguments, directory: Path, *_args) -> Ended:
        code, stderr, files = waiting.pop(0)
        place(directory, files)
        return Ended(code, "", stderr, 0.1, 0, False)

    monkeypatch.setattr(ending, "run", run)


def test_a_wrong_byte_after_exit_0_is_silently_wrong(reference, tmp_path, monkeypatch):
    study = place(tmp_path / "study", RIGHT | {"sae/a.bin": "wrong"})
    says(monkeypatch, (0, "", {}))
    verdict = to_the_end(STEP, study, reference)
    assert (verdict.outcome, verdict.detail) == ("wrong", "tiny/sae/a.bin differs")


def test_a_missing_output_after_exit_0_is_lost(reference, tmp_path, monkeypatch):
    study = place(tmp_path / "study", {"sae/a.bin": "right", "sae/run.json": json.dumps(RECORD)})
    says(monkeypatch, (0, "", {}))
    assert to_the_end(STEP, study, reference).outcome == "lost"


def test_equal_outputs_are_identical(reference, tmp_path, monkeypatch):
    files = RIGHT | {"sae/run.json": json.dumps(RECORD | {"pid": 2})}
    says(monkeypatch, (0, "", files))
    assert to_the_end(STEP, tmp_path / "study", reference).outcome == "identical"


def test_a_remedy_is_carried_out_and_the_same_command_run_again(reference, tmp_path, monkeypatch):
    study = place(tmp_path / "study", RIGHT | {"sae/cfg.json": "{"})
    message = "diffusae evaluate: outputs/tiny/sae/cfg.json is damaged; remove it and run the same"
    message += " command again"
    says(monkeypatch, (2, message, {}), (0, "", {}))
    assert to_the_end(STEP, study, reference).outcome == "remedied"
    assert not (study / "outputs/tiny/sae/cfg.json").exists()


def test_an_error_without_a_working_remedy_is_lost(reference, tmp_path, monkeypatch):
    says(monkeypatch, (2, "diffusae evaluate: something is wrong", {}))
    assert to_the_end(STEP, tmp_path / "a", reference).outcome == "lost"
    says(monkeypatch, *[(2, "diffusae evaluate: run the same command again", {})] * ending.ROUNDS)
    assert to_the_end(STEP, tmp_path / "b", reference).detail.startswith("no end")


def test_a_traceback_is_never_right(reference, tmp_path, monkeypatch):
    says(monkeypatch, (1, "Traceback (most recent call last):\nKeyError: 'k'", {}))
    assert to_the_end(STEP, tmp_path / "study", reference).outcome == "unclear"


def test_a_left_over_file_is_a_difference_but_a_lock_is_not(reference, tmp_path):
    study = place(tmp_path / "study", RIGHT | {"sae/a.bin.17.partial": "", "sae/.lock": ""})
    left = Difference("outputs/tiny/sae/a.bin.17.partial", "left over")
    assert differences(reference, study) == [left]


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"pid": 2, "started": "then", "finished": "later"}, True),
        ({"outputs": {"sae": OUTPUT | {"mtime_ns": 2}}}, True),
        ({"outputs": {"sae": OUTPUT | {"sha256": "b"}}}, False),
        ({"stage": "label"}, False),
    ],
)
def test_of_run_json_times_and_the_process_may_differ(reference, tmp_path, changed, same):
    files = RIGHT | {"sae/run.json": json.dumps(RECORD | changed)}
    assert (differences(reference, place(tmp_path / "study", files)) == []) == same


def test_locks_and_logs_are_no_results():
    names = (".lock", "train.log", "run.json", "sae.safetensors")
    assert [is_result(Path(name)) for name in names] == [False, False, True, True]


@pytest.mark.parametrize(
    ("signal_", "code", "stderr", "fault"),
    [
        (signal.SIGTERM, 143, "diffusae train: stopped; the same command goes on", None),
        (signal.SIGTERM, 143, "", None),
        (signal.SIGTERM, 0, "", None),
        (signal.SIGTERM, 1, "", "exit code 1 after SIGTERM: "),
        (signal.SIGINT, 130, "Traceback (most recent call last):", "traceback after SIGINT: "),
        (signal.SIGKILL, 137, "", None),
    ],
)
def test_the_end_of_a_command_after_a_signal_is_checked(signal_, code, stderr, fault):
    message = fault_of(Ended(code, "", stderr, 1.0, 0, True), signal_)
    assert message is None if fault is None else message is not None and message.startswith(fault)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("tiny/sae/mid-t1.00-cond-k4/cfg.json", "sae/CELL/cfg.json"),
        ("tiny/activations/mid/t0.50/uncond/shard-000003.tar", "activations/STREAM/shard-*.tar"),
        ("copy/activations/mirror.json", "COPY/mirror.json"),
        ("tiny/evaluation/latents/mid-t1.00-cond-k4/run.json", "evaluation/METRIC/CELL/run.json"),
        (
            "tiny/sae/.grid-0af3/checkpoints/step-000000003.ckpt",
            "sae/.grid-*/checkpoints/step-*.ckpt",
        ),
    ],
)
def test_the_kind_of_a_file_follows_from_its_name(path, kind):
    assert kind_of(path) == kind


@pytest.mark.parametrize("way", WAYS)
def test_every_way_damages(tmp_path, way):
    path = tmp_path / "file"
    path.write_bytes(b"some bytes")
    assert WAYS[way](path, Random(0))
    assert path.is_dir() or not path.exists() or path.read_bytes() != b"some bytes"


def test_a_directory_in_place_of_a_file_is_removed(tmp_path):
    study = place(tmp_path, {"sae/x": ""})
    place_ = study / "outputs/tiny/sae/cfg.json"
    place_.mkdir()
    message = "outputs/tiny/sae/cfg.json: Is a directory; move the directory away"
    said = message_of(f"noise\ndiffusae evaluate: {message}\n")
    assert carry_out(said, study, STEP) == "removed outputs/tiny/sae/cfg.json"
    assert not place_.exists()


def test_lost_wrong_and_unclear_trials_fail_the_campaign_and_are_in_its_table(tmp_path):
    outcomes = ("identical", "remedied", "lost", "wrong", "unclear", "not tried")
    results = [Result("damaged", "sae/CELL/cfg.json", "empty", outcome, "") for outcome in outcomes]
    assert [result.outcome for result in failures(results)] == ["lost", "wrong", "unclear"]
    (row,) = as_json(results, {})["rows"]
    assert (row["tried"], row["lost"], row["wrong"]) == (5, 1, 1)
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nan earlier table\n{END}\nafter\n")
    write_into(page, as_markdown(results, {"seed": 1}))
    text = page.read_text()
    assert "| sae/CELL/cfg.json | 5 | 1 | 1 | 1 | 1 | 1 |" in text
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    assert "an earlier table" not in text


def test_trials_are_distributed_and_a_failing_one_is_reported(tmp_path):
    from faults.ending import Verdict

    def fails(room: Path) -> Verdict:
        raise OSError("no room")

    trials = [
        Trial("killed", "train", "SIGKILL", lambda room: Verdict("identical", str(room.is_dir()))),
        Trial("killed", "label", "SIGKILL", fails),
        Trial("full disk", "label", "full", lambda room: None),
    ]
    results = carry_out_trials(trials, tmp_path, jobs=2)
    assert [result.outcome for result in results] == ["identical", "unclear", "not tried"]
    assert results[0].detail == "True"


def test_a_command_runs_in_its_own_process_and_a_blow_hits_it_at_its_write(tmp_path, monkeypatch):
    def main() -> None:
        for number in range(3):
            (tmp_path / str(number)).write_text("x")
        os.write(1, f"done {sys.argv[1]}".encode())

    monkeypatch.setattr("diffusae.cli.main", main)
    # pytest's own exit functions would clean up in the new process.
    monkeypatch.setattr("atexit._run_exitfuncs", lambda: None)
    whole = run(["report"], tmp_path)
    assert (whole.code, whole.stdout, whole.writes, whole.hit) == (0, "done report", 3, False)
    for number in range(3):
        (tmp_path / str(number)).unlink()
    killed = run(["report"], tmp_path, Blow(signal.SIGKILL, write=2))
    assert (killed.code, killed.hit) == (137, True)
    assert [(tmp_path / str(number)).exists() for number in range(3)] == [True, False, False]


def test_a_change_of_a_file_below_the_directory_counts_as_a_write(tmp_path):
    writes = Writes(tmp_path, tmp_path, None)
    for event, arguments in (
        ("open", (str(tmp_path / "a"), "w", 0)),
        ("open", (str(tmp_path / "a"), "r", 0)),
        ("open", ("relative", None, 1)),
        ("open", ("/elsewhere", "w", 0)),
        ("open", (3, "w", 0)),
        ("os.rename", (str(tmp_path / "a"), str(tmp_path / "b"), -1, -1)),
    ):
        writes(event, arguments)
    assert writes.count == 3


def test_every_step_follows_an_existing_one():
    assert all(step.after is None or step.after in STEPS for step in STEPS.values())
    assert all(name in STEPS for step in STEPS.values() for name in step.reads)
