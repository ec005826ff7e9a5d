"""One collection by several tasks is the single run's, byte for byte; and who may work beside
whom.
"""

import json
import logging
import shutil
from pathlib import Path

import pytest

from composing import compose
from diffusae.activations.parts import Part
from diffusae.collecting import collect as collecting
from diffusae.errors import UserError
from diffusae.runs.lock import directory_lock
from diffusae.runs.record import read_record
from diffusae.stages import collect as stage
from diffusae.study.study import Study
from small_collections import contents

SMALL = [
    "debug=tiny",
    "grid.timesteps=[1.0]",
    "grid.blocks=[mid]",
    "model.steps=2",
    "activations.group_size=1",
    "prompts.counts={train: 3, validation: 1, dictionary: 1, tune: 1, test: 1}",
]


def study_in(directory: Path, *overrides: str) -> Study:
    return Study(
        compose(
            "collect", overrides=[*SMALL, f"paths.activations={directory}/activations", *overrides]
        )
    )


def collect(directory: Path, *overrides: str) -> bool:
    return stage.collect(study_in(directory, *overrides).cfg)


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("single")
    collect(directory)
    return directory


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> list[Path]:
    """Two tasks that wrote to directories of their own."""
    directories = []
    for index in range(2):
        directories.append(tmp_path_factory.mktemp(f"part{index}"))
        collect(directories[-1], f"collect.shard={index}/2")
    return directories


def test_tasks_one_after_the_other_give_the_single_run_byte_for_byte(
    single, tmp_path, caplog, monkeypatch
):
    with caplog.at_level(logging.WARNING):
        assert collect(tmp_path, "collect.shard=1/2")
    assert "4 of 7 groups are missing: collect.shard=0/2: groups 0, 2, 4, 6" in caplog.text
    assert not (tmp_path / "activations" / "manifest.json").exists()
    assert collect(tmp_path, "collect.shard=0/2")
    assert contents(tmp_path / "activations") == contents(single / "activations")
    records = [read_record(directory / "activations") for directory in (single, tmp_path)]
    assert records[0] and records[1] and records[0].signature == records[1].signature
    assert records[1].status == "finished"
    monkeypatch.setattr(
        collecting, "load_model", None
    )  # nothing is left to do, for any number of tasks
    assert [
        collect(tmp_path, *share) for share in (["collect.shard=0/2"], ["collect.shard=1/2"], [])
    ] == [False] * 3


def test_a_damaged_shard_is_redone_by_its_task_alone(single, tmp_path, monkeypatch):
    for index in range(2):
        collect(tmp_path, f"collect.shard={index}/2")
    shard = next((tmp_path / "activations" / "mid").rglob("shard-000001.tar"))
    shard.write_bytes(b"\1" + shard.read_bytes()[1:])
    with monkeypatch.context() as patch:
        patch.setattr(collecting, "load_model", None)
        assert not collect(tmp_path, "collect.shard=0/2")
    assert collect(tmp_path, "collect.shard=1/2")
    assert contents(tmp_path / "activations") == contents(single / "activations")


def test_parts_of_other_directories_merge_to_the_single_run(single, parts, tmp_path):
    merged = f"collect.merge=[{parts[0]}/activations,{parts[1]}/activations]"
    assert collect(tmp_path, merged)
    assert contents(tmp_path / "activations") == contents(single / "activations")
    assert not collect(tmp_path, merged)


def test_a_merge_names_the_part_that_is_missing_and_the_groups_that_come_twice(parts, tmp_path):
    with pytest.raises(
        UserError, match=r"3 of 7 groups are missing \(collect.shard=1/2: groups 1, 3, 5\)"
    ):
        collect(tmp_path, f"collect.merge=[{parts[0]}/activations]")
    with pytest.raises(UserError, match="twice; name every part once"):
        collect(tmp_path, f"collect.merge=[{parts[0]}/activations,{parts[0]}/activations]")
    link = tmp_path / "again"
    link.symlink_to(parts[0], target_is_directory=True)
    with pytest.raises(UserError, match=r"group 0 lies in .* and in .*again"):
        collect(tmp_path, f"collect.merge=[{parts[0]}/activations,{link}/activations]")
    assert not list((tmp_path / "activations").rglob("*.tar"))


@pytest.mark.parametrize(
    ("override", "shown"),
    [
        ("model.steps=3", r"model.steps: 2 -> 3"),
        ("model.dtype=bfloat16", r"model.dtype: \"float32\" -> \"bfloat16\""),
        ("seed=1", r"seed: 0 -> 1"),
        ("model.name=other", r"model.name: \"miniature\" -> \"other\""),
    ],
)
def test_parts_of_another_model_or_setting_are_refused_with_both_shown(
    parts, tmp_path, unloadable, override, shown
):
    with pytest.raises(UserError, match=shown):
        collect(tmp_path, f"collect.merge=[{parts[0]}/activations]", override)
    with pytest.raises(UserError, match=shown):  # and beside a part in one directory
        collect(parts[0], "collect.shard=1/2", override)


def test_a_shard_that_is_not_its_journals_does_not_merge(parts, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(parts[0], copy)
    shard = next((copy / "activations" / "mid").rglob("shard-000002.tar"))
    shard.write_bytes(b"\1" + shard.read_bytes()[1:])
    with pytest.raises(UserError, match=r"shard-000002.tar has SHA-256"):
        collect(tmp_path, f"collect.merge=[{copy}/activations,{parts[1]}/activations]")
    assert not (tmp_path / "activations" / "manifest.json").exists()


def test_two_tasks_of_one_part_are_refused_and_so_is_all_beside_a_part(tmp_path, unloadable):
    root = study_in(tmp_path).activations
    with directory_lock(Part(0, 2).directory(root)):
        with pytest.raises(UserError, match=r"0-of-2 is in use by process \d+"):
            collect(tmp_path, "collect.shard=0/2")
        with pytest.raises(
            UserError, match=r"collect.shard=0/2 \(process \d+ .*overlap with those of 1/3"
        ):
            collect(tmp_path, "collect.shard=1/3")
        with pytest.raises(UserError, match=r"in use by collect.shard=0/2"):
            collect(tmp_path)
        with pytest.raises(AssertionError, match="the model was loaded"):
            collect(tmp_path, "collect.shard=1/2")


def test_a_part_beside_a_run_of_the_whole_is_refused(tmp_path, unloadable, monkeypatch):
    monkeypatch.setattr("diffusae.collecting.tasks.WAIT_S", 0.1)
    with (
        directory_lock(study_in(tmp_path).activations),
        pytest.raises(UserError, match=r"activations is in use by process"),
    ):
        collect(tmp_path, "collect.shard=0/2")


def test_a_task_removes_what_a_killed_task_of_its_own_groups_left_and_nothing_else(tmp_path):
    folder = study_in(tmp_path).activations / "mid" / "t1.00" / "cond"
    folder.mkdir(parents=True)
    mine, others = (folder / f"shard-00000{group}.tar.1.partial" for group in (1, 2))
    for path in (mine, others):
        path.touch()  # of process 1, which is alive
    collect(tmp_path, "collect.shard=1/2")
    assert not mine.exists()
    assert others.exists()


@pytest.mark.parametrize("shard", ["2/2", "1-2", "half", "0/0"])
def test_a_share_that_cannot_be_is_refused(tmp_path, unloadable, shard):
    with pytest.raises(UserError, match=r"collect.shard=.*(must lie in|must be i/n)"):
        collect(tmp_path, f"collect.shard={shard}")


def test_every_group_has_one_task_and_tasks_differ_by_one_group_at_the_most():
    for count in range(1, 6):
        owned = [[g for g in range(13) if Part(i, count).owns(g)] for i in range(count)]
        assert sorted(group for groups in owned for group in groups) == list(range(13))
        assert max(map(len, owned)) - min(map(len, owned)) <= 1


def test_the_manifest_says_nothing_of_tasks(parts, single):
    manifest = json.loads((single / "activations" / "manifest.json").read_text())
    assert "shard=" not in json.dumps(manifest)
