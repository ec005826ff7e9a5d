import hashlib
import json
import platform
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusae.errors import UserError
from diffusae.runs import record
from diffusae.runs.record import (
    parent_signature,
    read_record,
    run_record,
    run_signature,
    signature,
    state,
)

DETERMINES = {"sae": {"k": 10, "d_sae": 64}, "lr": 1e-4}
PARENTS = {"collect": "0123456789abcdef"}


def run(directory: Path, *, determines=DETERMINES, parents=PARENTS):
    config = {**determines, "workers": 2}
    return run_record(
        directory, stage="train", config=config, determines=determines, parents=parents, seed=3
    )


def test_a_signature_is_the_hash_of_canonical_json():
    assert (
        signature({"b": 1, "a": [1.5, None]})
        == hashlib.sha256(b'{"a":[1.5,null],"b":1}').hexdigest()[:16]
    )


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(), plain, max_size=5), st.randoms())
def test_a_signature_ignores_the_order_of_keys_and_survives_json(values: dict, random):
    items = list(values.items())
    random.shuffle(items)
    assert signature(dict(items)) == signature(values) == signature(json.loads(json.dumps(values)))


def test_any_change_of_values_or_parents_changes_the_signature():
    signatures = {
        run_signature(determines=DETERMINES, parents=PARENTS),
        run_signature(determines={**DETERMINES, "lr": 1e-3}, parents=PARENTS),
        run_signature(determines=DETERMINES, parents={"collect": "fedcba9876543210"}),
        run_signature(determines=DETERMINES, parents={}),
    }
    assert len(signatures) == 4


@pytest.mark.parametrize("value", [float("nan"), Path("x"), object()])
def test_a_value_that_is_not_plain_json_has_no_signature(value):
    with pytest.raises(UserError, match="plain JSON"):
        signature({"a": value})


def test_a_run_is_running_inside_its_block_and_finished_after(tmp_path: Path):
    with run(tmp_path) as made:
        inside = read_record(tmp_path)
        assert inside is not None
        assert inside.status == "running"
        assert inside.finished is None
        assert state(tmp_path, determines=DETERMINES, parents=PARENTS) == "unfinished"
    after = read_record(tmp_path)
    assert after is not None
    assert (after.status, after.error, after.stage, after.seed) == ("finished", None, "train", 3)
    assert (
        after.signature == made.signature == run_signature(determines=DETERMINES, parents=PARENTS)
    )
    assert after.config == {**DETERMINES, "workers": 2}
    assert after.versions["python"] == platform.python_version()
    assert after.versions["torch"]
    assert after.duration_s is not None
    assert after.duration_s >= 0
    assert state(tmp_path, determines=DETERMINES, parents=PARENTS) == "finished"
    assert parent_signature(tmp_path, stage="train") == made.signature


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt(), SystemExit(2)])
def test_a_run_that_raises_is_failed_with_its_error_and_may_be_run_again(
    tmp_path: Path, error: BaseException
):
    with pytest.raises(type(error)), run(tmp_path):
        raise error
    record = read_record(tmp_path)
    assert record is not None
    assert (record.status, record.error) == ("failed", f"{type(error).__name__}: {error}")
    assert state(tmp_path, determines=DETERMINES, parents=PARENTS) == "unfinished"
    with run(tmp_path):
        pass
    assert state(tmp_path, determines=DETERMINES, parents=PARENTS) == "finished"


def test_an_empty_directory_is_absent(tmp_path: Path):
    assert state(tmp_path / "none", determines={}, parents={}) == "absent"
    assert read_record(tmp_path) is None


def test_another_run_in_its_place_is_refused_with_the_difference_key_by_key(tmp_path: Path):
    with run(tmp_path):
        pass
    other = {"sae": {"k": 20, "d_sae": 64, "auxk": {"k": 8}}, "lr": 1e-4}
    with pytest.raises(UserError) as caught:
        state(tmp_path, determines=other, parents={"collect": "ffff"})
    lines = str(caught.value).split("\n")
    assert lines[1:4] == [
        '  parents.collect: "0123456789abcdef" -> "ffff"',
        "  sae.auxk.k: (absent) -> 8",
        "  sae.k: 10 -> 20",
    ]
    assert "choose another experiment name or directory, or remove this one" in lines[-1]
    with pytest.raises(UserError, match="holds another run"), run(tmp_path, determines=other):
        pytest.fail("the block must not run")
    assert state(tmp_path, determines=DETERMINES, parents=PARENTS) == "finished"


def test_other_settings_are_told_before_the_parents_are_asked_for(tmp_path: Path):
    def unread() -> dict[str, str]:
        raise AssertionError("the parents were asked for")

    with run(tmp_path):
        pass
    with pytest.raises(UserError, match=r"(?s)holds another run of train; .*lr: 0.0001 -> 0.5"):
        state(tmp_path, determines={**DETERMINES, "lr": 0.5}, parents=unread)
    with pytest.raises(AssertionError):  # also where there is nothing yet: a parent may be missing
        state(tmp_path / "none", determines=DETERMINES, parents=unread)
    assert state(tmp_path, determines=DETERMINES, parents=lambda: PARENTS) == "finished"


def test_tuples_and_lists_are_the_same_run(tmp_path: Path):
    with run(tmp_path, determines={"grid": (2, 3)}):
        pass
    assert state(tmp_path, determines={"grid": [2, 3]}, parents=PARENTS) == "finished"


def test_a_parent_that_is_not_finished_names_the_command(tmp_path: Path):
    with pytest.raises(UserError, match="found nothing; run `diffusae collect`"):
        parent_signature(tmp_path, stage="collect")
    with run(tmp_path), pytest.raises(UserError, match="found a run that is running"):
        parent_signature(tmp_path, stage="collect")


def test_a_damaged_record_is_named(tmp_path: Path):
    (tmp_path / "run.json").write_text('{"stage": "train"}')
    with pytest.raises(UserError, match=r"run.json is damaged \(KeyError"):
        read_record(tmp_path)


def test_commit_and_dirty_flag_are_those_of_the_repository(tmp_path: Path, monkeypatch):
    def git(*arguments: str) -> str:
        command = [
            "git",
            "-C",
            str(tmp_path),
            "-c",
            "user.name=n",
            "-c",
            "user.email=e",
            *arguments,
        ]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    (tmp_path / "source.py").write_text("")
    monkeypatch.setattr(record, "__file__", str(tmp_path / "source.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    ask = record._git.__wrapped__
    assert ask() == (None, None)
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    assert ask() == (git("rev-parse", "HEAD"), False)
    (tmp_path / "source.py").write_text("changed")
    assert ask() == (git("rev-parse", "HEAD"), True)


def test_what_a_killed_process_left_of_a_file_goes_with_the_next_run_and_that_of_others_stays(
    tmp_path: Path,
):
    done = subprocess.Popen(["true"])
    done.wait()
    dead, alive = tmp_path / f"sae.safetensors.{done.pid}.partial", tmp_path / "plan.json.1.partial"
    for path in (dead, alive):
        path.write_text("")
    with run(tmp_path):
        assert not dead.exists()
    assert alive.exists()
