from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusae.activations.shuffle import epoch_generator, sequential_batches, shuffled_batches
from diffusae.errors import UserError


def numbered(images: int, positions: int) -> list[np.ndarray]:
    """Image i's row j is the number i * positions + j, twice."""
    rows = np.arange(images * positions, dtype=np.float16).reshape(images, positions, 1)
    return [np.repeat(image, 2, axis=1) for image in rows]


def shuffled(
    images: int = 20, positions: int = 6, *, seed: int = 0, epoch: int = 0, **options
) -> list[list[int]]:
    sizes = {"batch_size": 8, "buffer_vectors": 32, **options}
    batches = shuffled_batches(numbered(images, positions), generator=epoch_generator(seed, epoch), **sizes)
    return [batch[:, 0].int().tolist() for batch in batches]


@settings(max_examples=60, deadline=None)
@given(
    images=st.integers(1, 12),
    positions=st.integers(1, 20),
    batch_size=st.integers(1, 17),
    extra=st.integers(0, 40),
    seed=st.integers(0, 2**40),
)
def test_every_vector_comes_exactly_once_in_full_batches(images, positions, batch_size, extra, seed):
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


def test_skipping_leaves_exactly_the_first_batches_out():
    whole = shuffled()
    for skip in range(len(whole) + 1):
        assert shuffled(skip=skip) == whole[skip:]


def test_a_short_last_batch_is_dropped_on_demand_and_nothing_else():
    whole = shuffled(images=7)  # 42 rows in batches of 8: the last has 2
    assert len(whole[-1]) == 2
    assert shuffled(images=7, drop_last=True) == whole[:-1]


def test_no_vector_comes_before_the_buffer_can_have_held_it():
    given_out = chain.from_iterable(shuffled(images=50))
    assert all(number < place + 32 for place, number in enumerate(given_out))


def test_a_buffer_as_large_as_the_set_permutes_the_whole_set_uniformly():
    places = np.zeros((6, 6))
    for seed in range(3000):
        batches = shuffled(3, 2, seed=seed, batch_size=2, buffer_vectors=6)
        for place, number in enumerate(chain.from_iterable(batches)):
            places[number, place] += 1
    # 500 expected a cell with a standard deviation of 20.4; six of them are out of reach by chance
    assert abs(places - 500).max() < 6 * 20.4


def test_batches_are_float32_and_own_their_memory():
    first, *rest = shuffled_batches(
        numbered(20, 6), batch_size=8, buffer_vectors=16, generator=epoch_generator(0, 0)
    )
    assert first.dtype == torch.float32
    assert len(rest) == 14
    assert sorted(torch.cat([first, *rest])[:, 0].int().tolist()) == list(range(120))


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
        epoch_generator(-1, 0)
