"""Training pictures that are made again and again, on a toy in the place of the model."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence, Set
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffusae.activations.chunk_buffer import ChunkBuffer
from diffusae.activations.datamodule import ShuffledBatches
from diffusae.activations.group_filling import GroupFilling
from diffusae.activations.schema import CollectedSample, Stream
from diffusae.activations.stored_numbers import stored_numbers
from diffusae.activations.subsampling import Subsampling
from diffusae.activations.writer import ActivationWriter
from diffusae.collecting.online import TrainingPictures
from diffusae.collecting.rounds import Rounds
from diffusae.errors import UserError
from diffusae.jobs.ranks import Ranks
from diffusae.prompts.prompt_set import Prompt
from several import in_processes

SEED = 3
STREAMS = [
    Stream(block=block, t=t, conditioning="cond", hookpoint=block, step_index=0, timestep=1,
           grid=grid, d_in=d_in)
    for block, t, grid, d_in in [("mid", 0.5, (2, 3), 4), ("up", 1.0, (1, 5), 3)]
]  # fmt: skip
PROMPTS = [Prompt(f"p{n:02d}", f"picture {n}", n, "train") for n in range(13)]
GROUPS = [PROMPTS[start : start + 4] for start in range(0, 13, 4)]
REJECTED = {"p01", "p06", "p07"}


class Toy:
    """Makes pictures, and tells which it was asked for."""

    def __init__(self, *, rejected: Set[str] = frozenset()) -> None:
        self.rejected, self.made = rejected, []

    def __call__(self, prompts: Sequence[Prompt]) -> Iterator[CollectedSample]:
        for prompt in prompts:
            self.made.append(prompt.image_id)
            rng = np.random.default_rng(prompt.seed)
            updates = {
                s.folder: rng.normal(size=(s.positions, s.d_in)).astype(np.float32) for s in STREAMS
            }
            if prompt.image_id in self.rejected:
                updates[STREAMS[1].folder][2, 1] = 1e6  # beyond float16
            yield CollectedSample(
                image_id=prompt.image_id, prompt=prompt.text, seed=prompt.seed, split="train",
                updates=updates,
            )  # fmt: skip


def pictures(
    directory: Path, toy: Toy, dtype="float16", kept: Subsampling | None = None, rounds=None
):
    streams, numbers = {stream.folder: stream for stream in STREAMS}, stored_numbers(dtype)
    return TrainingPictures(
        GROUPS,
        records=toy,
        filling=lambda: GroupFilling(
            streams=streams, tars={}, image_size=None, subsampling=kept, numbers=numbers
        ),
        numbers=numbers,
        seed=SEED,
        counts=directory / "pictures.json",
        rounds=rounds,
    )


def stored(directory: Path, toy: Toy, dtype: str, kept: Subsampling | None):
    writer = ActivationWriter(
        directory, streams=STREAMS, header={}, with_images=False, subsampling=kept, dtype=dtype
    )
    for index, group in enumerate(GROUPS):
        writer.write_group(index, toy(group))
    return writer.finish()


THINNED = Subsampling(splits=("train",), positions_per_image=4, seed=SEED)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kept", [None, THINNED], ids=["whole", "thinned"])
@pytest.mark.parametrize("rejected", [frozenset(), REJECTED], ids=["all", "some rejected"])
def test_the_batches_of_three_epochs_are_those_of_stored_shards_to_the_bit(
    tmp_path, dtype, kept, rejected
):
    manifest = stored(tmp_path / "stored", Toy(rejected=rejected), dtype, kept)
    made = pictures(tmp_path, Toy(rejected=rejected), dtype, kept)
    for stream in STREAMS:
        sizes: Any = {"batch_size": 4, "buffer_vectors": 18, "seed": SEED}
        expected = ShuffledBatches(
            tmp_path / "stored", manifest=manifest, stream=stream, split="train", **sizes
        )
        buffer = ChunkBuffer(
            widths={stream.folder: stream.d_in},
            images=made.images,
            positions=manifest.positions(stream, "train"),
            dtype=manifest.numbers.read,
            **sizes,
        )
        for epoch in range(3):
            expected.set_epoch(epoch)
            found, count = [], 0
            for image, rows in enumerate(made(epoch, 0)):
                for chunk in buffer.add(epoch, image, rows):
                    found += copies(chunk.batches[stream.folder])
                count += 1
            for chunk in buffer.end(count):
                found += copies(chunk.batches[stream.folder])
            wanted = [batch.clone() for batch in expected]
            assert len(found) == len(wanted) == buffer.batches_of_epoch
            assert all(map(torch.equal, found, wanted))


def copies(batches) -> list[torch.Tensor]:
    found = []
    for batch in batches:
        found.append(torch.empty(len(batch), batch.tables[0].shape[1]))
        batch.copy_to(found[-1])
    return found


def test_a_later_start_makes_the_group_in_progress_whole_and_leaves_earlier_ones_out(tmp_path):
    toy = Toy(rejected=REJECTED)
    whole = list(pictures(tmp_path, toy)(0, 0))
    order, begun = toy.made, Toy(rejected=REJECTED)
    made = pictures(tmp_path, begun)
    assert made.images == len(whole) == 10
    again = list(made(0, 6))
    assert all(
        np.array_equal(a[name], b[name])
        for a, b in zip(again, whole[6:], strict=True)
        for name in a
    )
    # Of the order's first groups, those that hold no more than 6 accepted pictures are left out.
    accepted = np.cumsum([name not in REJECTED for name in order])
    done = [order.index(group[-1].image_id) for group in GROUPS]
    left_out = max((end + 1 for end in done if accepted[end] <= 6), default=0)
    assert begun.made == order[left_out:] and 0 < left_out < 13


def test_a_group_that_is_not_made_to_its_end_is_not_known_and_a_damaged_note_is_made_again(
    tmp_path,
):
    list(islice(pictures(tmp_path, Toy(rejected=REJECTED))(0, 0), 2))
    assert pictures(tmp_path, Toy()).images == 13
    list(pictures(tmp_path, Toy(rejected=REJECTED))(0, 0))
    note = tmp_path / "pictures.json"
    note.write_text(note.read_text().replace(": 4", ": 5"))
    assert pictures(tmp_path, Toy()).images == 13


def test_rejected_pictures_are_counted_once_and_a_group_without_any_other_is_refused(
    tmp_path, caplog
):
    made = pictures(tmp_path, Toy(rejected=REJECTED))
    with caplog.at_level(logging.WARNING):
        for epoch in range(2):
            list(made(epoch, 0))
    assert caplog.text.count("3 of 13 training pictures are rejected") == 1
    every = {prompt.image_id for prompt in PROMPTS}
    with pytest.raises(UserError, match=r"pictures of group . .*set activations.dtype=bfloat16"):
        list(pictures(tmp_path / "other", Toy(rejected=every))(0, 0))


def make(ranks: Ranks, directory: Path, dtype: str, images: int) -> None:
    """The part of one process: mid is trained in the first one, up in the second, and the third one
    only makes pictures.
    """
    toy = Toy(rejected=REJECTED)
    trains = {STREAMS[0].folder: 0, STREAMS[1].folder: 1}
    made = pictures(directory, toy, dtype, rounds=Rounds(ranks, trains))
    for part, first in (("whole", 0), ("later", 6)):
        rows = {
            f"{image}/{name}": array
            for image, named in enumerate(made(0, first))
            for name, array in named.items()
        }
        np.savez(directory / f"{part}-{ranks.rank}.npz", allow_pickle=False, **rows)
        (directory / f"{part}-{ranks.rank}.txt").write_text(" ".join(toy.made))
        toy.made.clear()
    assert made.images == images
    assert not list(made(1, 0, lambda: False))  # no process wants any
    assert len(list(made(1, 0, lambda: ranks.rank == 2))) == images  # one does


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])  # the second rejects none
def test_processes_make_every_group_once_and_get_the_streams_that_they_train_on(tmp_path, dtype):
    alone = Toy(rejected=REJECTED)
    whole = list(pictures(tmp_path / "alone", alone, dtype)(0, 0))
    assert in_processes(make, 3, tmp_path, tmp_path, dtype, len(whole)) == [0, 0, 0]
    for rank, folder in [(0, STREAMS[0].folder), (1, STREAMS[1].folder), (2, None)]:
        for part, first in (("whole", 0), ("later", 6)):
            rows = dict(np.load(tmp_path / f"{part}-{rank}.npz"))
            expected = {
                f"{image}/{folder}": row[folder]
                for image, row in enumerate(whole[first:])
                if folder
            }
            assert rows.keys() == expected.keys()
            assert all(np.array_equal(rows[name], expected[name]) for name in rows)
    makers = [(tmp_path / f"whole-{rank}.txt").read_text().split() for rank in range(3)]
    assert sorted(name for made in makers for name in made) == sorted(alone.made)
    # The epoch's four groups: one a process, then the last one by the first process.
    order = [alone.made.index(group[0].image_id) for group in GROUPS]
    groups = [GROUPS[index] for index in np.argsort(order)]
    assert [len(made) for made in makers] == [
        len(groups[0]) + len(groups[3]), len(groups[1]), len(groups[2])
    ]  # fmt: skip
    later = [(tmp_path / f"later-{rank}.txt").read_text().split() for rank in range(3)]
    assert 0 < sum(map(len, later)) < 13  # known groups before the sixth picture are left out
