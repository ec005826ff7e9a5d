"""Attention to the tokens of a picture's own caption alone, beside samples that keep all tokens."""

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import load_updates, read_updates
from diffusae.activations.schema import ATTENTION, CollectedSample
from diffusae.activations.writer import ActivationWriter
from diffusae.errors import UserError
from small_collections import sample_of, stream_of
from tars import write_tar

MID, OWN = stream_of((1, 2), 3), stream_of((2, 2), 7, block=ATTENTION)
SHARES = np.arange(28, dtype=np.float16).reshape(4, 7)
KEPT = {"all": None, "two": [1, 5], "none": []}
"""Image id -> the tokens that its sample keeps."""


def sample(image_id: str, columns: Sequence[int] | None) -> CollectedSample:
    shares = SHARES if columns is None else SHARES[:, [n % 7 for n in columns]]
    updates = {MID.folder: np.ones((2, 3)), OWN.folder: shares}
    return sample_of(image_id, 0, "test", updates, columns=columns)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A group as earlier versions wrote it, with all tokens, and one with samples of few."""
    writer = ActivationWriter(tmp_path, streams=[MID, OWN], header={}, with_images=False)
    writer.write_group(0, [sample("all", None)])
    writer.write_group(1, [sample(name, KEPT[name]) for name in ("two", "none")])
    writer.finish()
    return tmp_path


def test_a_sample_lists_the_tokens_that_it_keeps_and_others_keep_all(root: Path) -> None:
    samples = {s.image_id: s for s in read_updates(root, Manifest.load(root), OWN, "test")}
    assert {name: one.meta.get("columns") for name, one in samples.items()} == KEPT
    assert np.array_equal(samples["all"].updates, SHARES)
    assert samples["two"].updates.tolist() == [[1, 5], [8, 12], [15, 19], [22, 26]]
    assert samples["none"].updates.shape == (4, 0)


def test_only_attention_keeps_some_columns(root: Path) -> None:
    ids, updates = load_updates(root, Manifest.load(root), MID, "test")
    assert ids == [*KEPT] and updates.shape == (3, 2, 3)
    with tarfile.open(root / MID.folder / "shard-000001.tar") as tar:
        member = tar.extractfile("two.json")
        assert member is not None and "columns" not in json.loads(member.read())
    with pytest.raises(UserError, match="tokens of their own captions and make no array"):
        load_updates(root, Manifest.load(root), OWN, "test")


@pytest.mark.parametrize("columns", [[5, 1], [1, 1], [0, 7], [-1]])
def test_tokens_that_are_none_are_not_written(tmp_path: Path, columns: list[int]) -> None:
    writer = ActivationWriter(tmp_path, streams=[MID, OWN], header={}, with_images=False)
    with pytest.raises(UserError, match="ascending, from 0 to 6"):
        writer.write_group(0, [sample("a", columns)])


@pytest.mark.parametrize("listed", [[5, 1], [1, 7], [1], [1, 2, 3]])
def test_a_list_that_does_not_fit_is_refused(root: Path, listed: list[int]) -> None:
    shard = root / OWN.folder / "shard-000001.tar"
    with tarfile.open(shard) as tar:
        members = [(one.name, tar.extractfile(one).read()) for one in tar]  # type: ignore[union-attr]
    about = json.loads(dict(members)["two.json"]) | {"columns": listed}
    write_tar(
        shard, [(n, json.dumps(about).encode() if n == "two.json" else d) for n, d in members]
    )
    with pytest.raises(UserError, match=r"sample 'two' (must list 2 ascending columns|is float16)"):
        list(read_updates(root, Manifest.load(root), OWN, "test"))
