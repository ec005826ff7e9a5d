"""Batches from pictures that are made in an epoch's order are those of stored shards."""

import numpy as np
import pytest
import torch

from diffusae.activations.chunk_buffer import Chunk, ChunkBuffer
from diffusae.activations.epoch_size import pictures_needed


def example(**changed) -> ChunkBuffer:
    """That of `diffusae.activations.order`: 3 images of 4 vectors, batches of 4, a buffer of 8."""
    sizes = {"images": 3, "positions": 4, "batch_size": 4, "buffer_vectors": 8, "seed": 0}
    return ChunkBuffer(widths={"mid": 1}, **{**sizes, **changed})


def picture(image: int, positions: int = 4) -> dict[str, np.ndarray]:
    """Vector v of the epoch is the number v."""
    first = positions * image
    return {"mid": np.arange(first, first + positions, dtype=np.float16)[:, None]}


def numbers(chunk: Chunk) -> list[list[int]]:
    batches = []
    for batch in chunk.batches["mid"]:
        rows = torch.empty(len(batch), 1)
        batch.copy_to(rows)
        batches.append(rows.flatten().int().tolist())
    return batches


def together(chunk: Chunk) -> list[int]:
    """All numbers of a chunk, ascending."""
    return sorted(number for batch in numbers(chunk) for number in batch)


def test_the_second_picture_completes_the_chunk_of_the_worked_example():
    # Image 0 goes to the rows 4, 0, 1, 5 and image 1 to the rows 2, 6, 7, 3.
    buffer = example()
    assert not list(buffer.add(0, 0, picture(0)))
    (chunk,) = [(one.first, numbers(one)) for one in buffer.add(0, 1, picture(1))]
    assert chunk == (0, [[1, 2, 4, 7], [0, 3, 5, 6]])
    assert buffer.place == (0, 2)


def test_the_short_chunk_at_the_end_is_that_of_the_accepted_pictures_and_the_next_epoch_begins():
    buffer = example(images=9)  # six of them are rejected
    for image in range(3):
        list(buffer.add(0, image, picture(image)))
    (last,) = [(one.first, [sorted(b) for b in numbers(one)]) for one in buffer.end(3)]
    assert last == (2, [[8, 9, 10, 11]])
    assert buffer.place == (1, 0) and buffer.batches_of_epoch == 3


def test_a_picture_larger_than_a_chunk_completes_several():
    buffer = example(images=1, positions=20)
    chunks = [(c.first, together(c)) for c in buffer.add(0, 0, picture(0, 20))]
    assert chunks == [(0, list(range(8))), (2, list(range(8, 16)))]
    assert [together(c) for c in buffer.end(1)] == [[16, 17, 18, 19]]


@pytest.mark.parametrize(
    ("batch", "place"), [(0, (0, 0)), (2, (0, 0)), (3, (0, 3)), (5, (0, 3)), (8, (1, 0))]
)
def test_a_resumed_run_begins_with_the_first_picture_of_the_chunk_of_its_next_batch(batch, place):
    # 10 pictures of 4 vectors make 8 batches of 5. A chunk has 3 of them: 15 vectors, of which the
    # second chunk's begin in picture 3.
    buffer = example(images=10, batch_size=5, buffer_vectors=19)
    buffer.seek(batch)
    assert buffer.place == place


def test_pictures_before_the_chunk_and_vectors_of_its_first_one_that_lie_before_are_left_out():
    buffer = example(images=10, batch_size=5, buffer_vectors=19)
    buffer.seek(4)
    made = [c for image in range(7) for c in buffer.add(0, image, picture(image))]
    assert not made
    (chunk,) = [(c.first, together(c)) for c in buffer.add(0, 7, picture(7))]
    assert chunk == (3, list(range(15, 30)))
    assert not list(buffer.add(1, 8, picture(8)))  # of another epoch


@pytest.mark.parametrize(
    ("steps", "pictures"), [(1, 5), (4, 5), (5, 10), (8, 10), (9, 15), (16, 20)]
)
def test_steps_need_the_whole_chunks_that_they_begin(steps, pictures):
    sizes = {"images": 10, "positions": 4, "batch_size": 5, "buffer_vectors": 20}
    assert pictures_needed(steps, **sizes) == pictures


def test_memory_is_one_chunk_of_every_stream_and_no_more_than_an_epoch():
    assert example().bytes == 8 * 2
    assert example(buffer_vectors=1000).bytes == 12 * 2
