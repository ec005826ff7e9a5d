from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusae.activations.order import EpochOrder
from diffusae.activations.shuffle import chunk_of_batches, sequential_batches
from diffusae.errors import UserError


def numbered(images: int, positions: int) -> list[np.ndarray]:
    """Image i's row j is the number i * positions + j, twice."""
    rows = np.arange(images * positions, dtype=np.float16).reshape(images, positions, 1)
    return [np.repeat(image, 2, axis=1) for image in rows]


def shuffled(
    images: int = 20,
    positions: int = 6,
    *,
    seed: int = 0,
    epoch: int = 0,
    rank: int = 0,
    world_size: int = 1,
    **sizes,
) -> list[list[int]]:
    sizes = {"batch_size": 8, "buffer_vectors": 32, **sizes}
    order = EpochOrder(
        images=images,
        positions=positions,
        seed=seed,
        epoch=epoch,
        rank=rank,
        world_size=world_size,
        **sizes,
    )
    arrays = numbered(images, positions)
    chunks = (chunk_of_batches(order, c, arrays.__getitem__, d_in=2) for c in range(order.chunks))
    return [batch[:, 0].int().tolist() for batch in chain.from_iterable(chunks)]


@settings(max_examples=60)
@given(
    images=st.integers(1, 12),
    positions=st.integers(1, 20),
    batch_size=st.integers(1, 17),
    extra=st.integers(0, 40),
    seed=st.integers(0, 2**40),
)
def test_every_vector_comes_exactly_once_in_full_batches(
    images, positions, batch_size, extra, seed
):
    buffer = batch_size + extra
    batches = shuffled(images, positions, seed=seed, batch_size=batch_size, buffer_vectors=buffer)
    assert sorted(chain.from_iterable(batches)) == list(range(images * positions))
    sizes = [len(batch) for batch in batches]
    assert all(size == batch_size for size in sizes[:-1])
    assert 1 <= sizes[-1] <= batch_size


def test_the_same_seed_and_epoch_give_the_same_order_and_others_another():
    assert shuffled(seed=3, epoch=2) == shuffled(seed=3, epoch=2)
    orders = [shuffled(seed=seed, epoch=epoch) for seed, epoch in [(3, 2), (3, 3), (4, 2), (2, 3)]]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


def test_the_global_random_state_plays_no_part():
    torch.manual_seed(1)
    first = shuffled()
    torch.manual_seed(2)
    assert shuffled() == first


def test_no_vector_leaves_the_chunk_that_the_buffer_holds():
    given_out = chain.from_iterable(shuffled(images=50))
    assert all(number // 32 == place // 32 for place, number in enumerate(given_out))


@given(
    images=st.integers(1, 30),
    positions=st.integers(1, 9),
    buffer=st.integers(8, 60),
    world=st.sampled_from([2, 4, 8]),
)
def test_the_ranks_batches_together_are_those_of_a_single_process(images, positions, buffer, world):
    whole = shuffled(images, positions, buffer_vectors=buffer)
    ranks = [
        shuffled(images, positions, buffer_vectors=buffer, rank=rank, world_size=world)
        for rank in range(world)
    ]
    assert all(len(rank) == len(whole) for rank in ranks)
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert sorted(chain.from_iterable(parts)) == sorted(batch)
        if len(batch) == 8:
            assert {len(part) for part in parts} == {8 // world}


def test_every_batch_takes_equally_many_vectors_from_every_part_of_the_chunk():
    for place, batch in enumerate(shuffled(images=64, positions=4, buffer_vectors=128)):
        first = 128 * (place // 16)
        assert sorted((number - first) // 16 for number in batch) == list(range(8))


def test_without_lanes_a_buffer_as_large_as_the_set_permutes_it_uniformly():
    places = np.zeros((6, 6))
    for seed in range(3000):
        # 3 is no multiple of 2, so a batch has one lane
        batches = shuffled(3, 2, seed=seed, batch_size=3, buffer_vectors=6)
        for place, number in enumerate(chain.from_iterable(batches)):
            places[number, place] += 1
    # 500 expected a cell with a standard deviation of 20.4; six of them are out of reach by chance
    assert abs(places - 500).max() < 6 * 20.4


def test_sequential_batches_keep_the_order_and_every_vector():
    batches = list(sequential_batches(numbered(5, 3), batch_size=4))
    assert [len(batch) for batch in batches] == [4, 4, 4, 3]
    assert torch.cat(batches)[:, 0].int().tolist() == list(range(15))


def test_sizes_that_cannot_work_are_refused():
    with pytest.raises(UserError, match="buffer_vectors=4 is below batch_size=8"):
        shuffled(buffer_vectors=4)
    with pytest.raises(UserError, match="batch_size=0 must be at least 1"):
        shuffled(batch_size=0)
    with pytest.raises(UserError, match="seed=-1"):
        shuffled(seed=-1)
    with pytest.raises(UserError, match="3 processes cannot share batches of 8"):
        shuffled(world_size=3)
