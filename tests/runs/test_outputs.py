"""A finished run has all outputs, unchanged. Five kinds of damage, and the readers' messages."""

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from diffusae import files
from diffusae.errors import UserError
from diffusae.files import atomic_path, recorded_outputs, sha256_of, verified
from diffusae.runs.record import Parent, parent_signature, read_record, run_record, state
from diffusae.runs.survey import finished_runs, runs_below

DETERMINES = {"k": 4}


def flip_a_bit(path: Path) -> None:
    """Flip one bit of the middle byte. Size and time stay, as for a disk fault."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def make_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "one bit": flip_a_bit,
    "empty": lambda path: path.write_bytes(b""),
    "missing": Path.unlink,
    "a directory": make_a_directory,
}


def make(
    directory: Path, content: bytes = b"figures", *, stage: str = "label", parents=None
) -> None:
    with run_record(
        directory, stage=stage, config={}, determines=DETERMINES, parents=parents or {}, seed=0
    ):
        with atomic_path(directory / "one.parquet") as temporary:
            temporary.write_bytes(content)
        with atomic_path(directory / "two.json") as temporary:
            temporary.write_bytes(b"{}")


def found(directory: Path, parents=None) -> str:
    return state(directory, determines=DETERMINES, parents=parents or {})


@pytest.fixture
def run(tmp_path) -> Path:
    make(tmp_path / "run")
    return tmp_path / "run"


def test_run_json_tells_size_time_and_hash_of_every_output_and_of_nothing_else(tmp_path):
    with run_record(tmp_path, stage="label", config={}, determines=DETERMINES, parents={}, seed=0):
        for name in ("a.json", ".lock", "left.9.partial"):
            (tmp_path / name).write_text("x")
        (tmp_path / "checkpoints").mkdir()
    record = json.loads((tmp_path / "run.json").read_text())
    status = (tmp_path / "a.json").stat()
    assert record["outputs"] == {
        "a.json": {
            "size": 1,
            "mtime_ns": status.st_mtime_ns,
            "sha256": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",  # of "x"
        }
    }


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_reader_names_what_it_expected_and_found_and_the_run_is_made_again(run, damage):
    path = run / "one.parquet"
    DAMAGES[damage](path)
    with pytest.raises(UserError, match=r"one\.parquet (has|is) .*expected .*`diffusae label`"):
        verified(path)
    assert found(run) == "unfinished"
    with pytest.raises(UserError, match=r"damaged: .*one\.parquet.*`diffusae label`"):
        parent_signature(run, stage="label")
    if damage == "a directory":
        with pytest.raises(UserError, match=r"one\.parquet is a directory.*move it away"):
            make(run)
        path.rmdir()
    make(run)
    assert found(run) == "finished"
    assert verified(path).read_bytes() == b"figures"


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name != "one bit"])
def test_what_size_or_time_shows_is_found_without_reading(run, damage, monkeypatch):
    monkeypatch.setattr(files, "sha256_of", lambda path: pytest.fail("it was read"))
    DAMAGES[damage](run / "one.parquet")
    assert found(run) == "unfinished"


def test_a_flipped_bit_that_a_reader_found_is_known_to_other_processes(run):
    flip_a_bit(run / "one.parquet")
    assert found(run) == "finished"  # size and time are as they were
    with pytest.raises(UserError):
        verified(run / "one.parquet")
    files._damaged.clear()  # what this process knows
    assert found(run) == "unfinished"


def test_a_copy_is_read_once_and_then_finished_by_its_times(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "copy", copy_function=shutil.copyfile)
    reads: list[str] = []
    monkeypatch.setattr(
        files, "sha256_of", lambda path: (reads.append(Path(path).name), sha256_of(path))[1]
    )
    assert [found(tmp_path / "copy") for _ in range(3)] == ["finished"] * 3
    assert sorted(reads) == ["one.parquet", "two.json"]


def test_a_copy_on_a_disk_that_cannot_be_written_is_read_once_a_process(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "copy", copy_function=shutil.copyfile)

    def refuse(*_args, **_kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    reads: list[str] = []
    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(
        files, "sha256_of", lambda path: (reads.append(Path(path).name), sha256_of(path))[1]
    )
    assert [found(tmp_path / "copy") for _ in range(3)] == ["finished"] * 3
    assert sorted(reads) == ["one.parquet", "two.json"]


def test_a_file_that_the_run_did_not_make_is_refused(run):
    (run / "results.json").write_text("[]")
    with pytest.raises(
        UserError, match=r"results\.json is not among the outputs .*one\.parquet, two\.json"
    ):
        verified(run / "results.json")


def test_records_of_earlier_versions_count_as_they_did_and_nothing_is_compared(run):
    record = json.loads((run / "run.json").read_text())
    for name in ("outputs", "made_from", "checksum"):
        del record[name]
    (run / "run.json").write_text(json.dumps(record))
    flip_a_bit(run / "one.parquet")
    assert found(run) == "finished"
    assert verified(run / "one.parquet") == run / "one.parquet"
    assert parent_signature(run, stage="label").contents is None


def test_without_a_record_nothing_is_compared(tmp_path):
    (tmp_path / "results.json").write_text("[]")
    assert verified(tmp_path / "results.json") == tmp_path / "results.json"


@pytest.mark.parametrize("damage", ["truncated", "one bit", "empty"])
def test_a_damaged_record_is_told_and_its_run_is_made_again(run, damage, caplog):
    DAMAGES[damage](run / "run.json")
    assert found(run) == "absent"
    assert "run.json is damaged" in caplog.text
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        verified(run / "one.parquet")
    make(run)
    assert found(run) == "finished"


def test_every_value_of_the_record_is_under_its_checksum(run):
    record = json.loads((run / "run.json").read_text())
    for name in record:
        changed = {**record, name: "another"}
        (run / "run.json").write_text(json.dumps(changed))
        assert found(run) == "absent", name
    renamed = {
        ("checksun" if name == "checksum" else name): value for name, value in record.items()
    }
    (run / "run.json").write_text(json.dumps(renamed))
    assert found(run) == "absent"


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"outputs": 3}', '{"outputs": {"a": {"size": "1"}}}', "\udcff"]
)
def test_a_record_may_say_anything(run, text):
    (run / "run.json").write_bytes(text.encode(errors="surrogateescape"))
    assert found(run) == "absent"
    with pytest.raises(UserError, match="damaged"):
        verified(run / "one.parquet")


def test_a_directory_in_the_place_of_the_record_is_named(run):
    make_a_directory(run / "run.json")
    with pytest.raises(
        UserError, match=r"run\.json cannot be read \(Is a directory\); move it away"
    ):
        found(run)


def test_later_runs_are_made_again_where_a_parent_differs_and_only_there(tmp_path):
    make(tmp_path / "sae")
    parents = {"train": parent_signature(tmp_path / "sae", stage="train")}
    make(tmp_path / "concepts", parents=parents)
    (tmp_path / "sae" / "one.parquet").unlink()
    make(tmp_path / "sae")
    parents = {"train": parent_signature(tmp_path / "sae", stage="train")}
    assert found(tmp_path / "concepts", parents) == "finished"
    make(tmp_path / "sae", b"others")
    again = {"train": parent_signature(tmp_path / "sae", stage="train")}
    assert again == parents  # the signature is of what it is made from
    assert found(tmp_path / "concepts", again) == "unfinished"
    make(tmp_path / "concepts", parents=again)
    assert found(tmp_path / "concepts", again) == "finished"


def test_a_parent_is_its_signature_and_lies_in_the_record_as_that(tmp_path):
    make(tmp_path, parents={"train": Parent("0123", "4567")})
    record = read_record(tmp_path)
    assert record is not None
    assert (record.parents, record.made_from) == ({"train": "0123"}, {"train": "4567"})


def test_a_survey_names_what_is_left_out_and_why(tmp_path, caplog):
    for name in ("whole", "damaged", "unreadable"):
        make(tmp_path / name)
    (tmp_path / "damaged" / "two.json").unlink()
    (tmp_path / "unreadable" / "run.json").write_text("{")
    with (
        pytest.raises(RuntimeError),
        run_record(
            tmp_path / "failed", stage="label", config={}, determines=DETERMINES, parents={}, seed=0
        ),
    ):
        raise RuntimeError
    assert [path.name for path, _ in finished_runs(tmp_path, "*")] == ["whole"]
    for words in (
        "two.json is missing",
        "unreadable/run.json is damaged",
        "failed: its run is failed",
    ):
        assert words in caplog.text
    assert {run.directory.name: run.status for run in runs_below(tmp_path)} == {
        "damaged": "damaged", "failed": "failed", "unreadable": "damaged", "whole": "finished"
    }  # fmt: skip


def test_a_survey_that_reads_finds_a_flipped_bit(run):
    flip_a_bit(run / "one.parquet")
    assert runs_below(run.parent)[0].fault is None
    fault = runs_below(run.parent, read=("label",))[0].fault
    assert fault is not None and "SHA-256" in fault


def test_the_rename_is_flushed_after_the_file_and_where_asked_for_only(tmp_path, monkeypatch):
    flushed: list[str] = []
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (flushed.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))[1]
    )
    for durable in (True, False):
        with atomic_path(tmp_path / "a", durable=durable) as temporary:
            temporary.write_text("x")
    assert [Path(path).name.split(".")[0] for path in flushed] == ["a", tmp_path.name]


@pytest.mark.parametrize(("number", "fails"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_file_system_that_cannot_flush_directories_does_and_a_faulty_disk_does_not(
    tmp_path, monkeypatch, number, fails
):
    fsync = os.fsync

    def refuse(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    if fails:
        with pytest.raises(OSError, match="Input/output"), atomic_path(tmp_path / "a") as temporary:
            temporary.write_text("x")
        return
    with atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "a").read_text() == "x"


def test_what_a_killed_process_left_goes_and_what_a_live_one_writes_stays(tmp_path: Path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tmp_path / f"report.json.{gone.pid}.partial").write_text("{")
    (tmp_path / f"report.json.{os.getppid()}.partial").write_text("{")
    files.remove_left_overs(tmp_path)
    files.remove_left_overs(tmp_path / "nowhere")
    assert [path.name for path in tmp_path.iterdir()] == [f"report.json.{os.getppid()}.partial"]


@pytest.mark.parametrize("name", ["../victim.txt", "/etc/hostname", "a/b", "..", ""])
def test_an_output_that_a_record_places_elsewhere_is_refused_and_not_touched(
    tmp_path: Path, name: str
):
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    before = victim.stat().st_mtime_ns
    elsewhere = {name: {"size": 4, "mtime_ns": 1, "sha256": sha256_of(victim)}}
    with pytest.raises(ValueError, match="lie directly in its directory"):
        recorded_outputs({"outputs": elsewhere, "checksum": ""})
    assert victim.stat().st_mtime_ns == before
