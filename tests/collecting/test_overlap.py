"""A collection that is written behind its generation: same bytes, same errors, and no stop loses
what was made.
"""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from composing import compose
from diffusae.activations import hashed_tar
from diffusae.activations.journal import read_journals
from diffusae.collecting import collect as collecting
from diffusae.collecting import generation
from diffusae.errors import UserError
from diffusae.stages import collect as stage
from diffusae.stopping import StopSignal
from small_collections import contents

SMALL = [
    "debug=tiny",
    "grid.timesteps=[1.0]",
    "grid.blocks=[mid]",
    "model.steps=2",
    "model.batch_size=2",
    "activations.group_size=3",  # two batches each
    "prompts.counts={train: 4, validation: 1, dictionary: 3, tune: 1, test: 3}",
]
"""Groups of 3, 1, 1, 3, 1 and 3 pictures: batches 0 and 1, 2, 3, 4 and 5, 6, 7 and 8."""


def collect(directory: Path) -> Path:
    stage.collect(compose("collect", [*SMALL, f"paths.outputs={directory}"]))
    return directory / "tiny" / "activations"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Everything on one thread, as on a CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(collecting, "taken_behind")
        return contents(collect(tmp_path_factory.mktemp("plain")))


@pytest.fixture(autouse=True)
def _as_on_a_gpu(plain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "_overlaps", lambda _device: True)


def test_the_bytes_are_those_of_a_collection_on_one_thread(plain, tmp_path: Path) -> None:
    assert contents(collect(tmp_path)) == plain


def ending(generate: Callable, after: int) -> Callable:
    left = [after]

    def made(*args: object, **values: object) -> object:
        left[0] -= 1
        if left[0] < 0:
            raise StopSignal(15)
        return generate(*args, **values)

    return made


@pytest.mark.parametrize(("batches", "finished"), [(3, [0, 1]), (4, [0, 1, 2]), (5, [0, 1, 2])])
def test_a_stop_keeps_every_group_whose_batches_were_made(
    plain, tmp_path: Path, monkeypatch, batches: int, finished: list[int]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(generation, "generate", ending(generation.generate, batches))
        with pytest.raises(StopSignal):
            collect(tmp_path)
    root = tmp_path / "tiny" / "activations"
    assert sorted(read_journals(root)) == finished
    assert not list(root.rglob("*.partial"))
    if batches == 5:  # in the middle of a group
        assert contents(collect(tmp_path)) == plain


def test_a_full_disk_is_told_as_such_and_the_same_command_goes_on(
    plain, tmp_path: Path, monkeypatch
) -> None:
    honest, written = hashed_tar.HashedTar._write, [0]

    def full(tar: hashed_tar.HashedTar, data: bytes) -> None:
        written[0] += len(data)
        if written[0] > 600_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        honest(tar, data)

    with monkeypatch.context() as patch:
        patch.setattr(hashed_tar.HashedTar, "_write", full)
        with pytest.raises(UserError, match=r"is full: group \d .* finished groups are kept"):
            collect(tmp_path)
    root = tmp_path / "tiny" / "activations"
    assert 0 < len(read_journals(root)) < 6
    assert not list(root.rglob("*.partial"))
    assert contents(collect(tmp_path)) == plain
