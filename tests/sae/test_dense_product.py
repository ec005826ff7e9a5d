import copy
from dataclasses import dataclass, field

import pytest
import torch

from diffusae.sae import screening
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.dense_product import IN_8_BITS, ROUNDS, WAYS, FastestWay, Way
from diffusae.sae.sparsity import BatchTopK, MatryoshkaTopK, TopK


@dataclass
class Clock:
    """Stands still, but for what a batch is said to take."""

    now: float = 0.0
    taken: list[str] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("way", WAYS, ids=[way.name for way in WAYS])
def test_every_way_multiplies_by_the_transposed_matrix(way):
    left, right = torch.randn(30, 7), torch.nn.Parameter(torch.randn(50, 7))
    result = torch.empty(30, 50)
    with torch.no_grad():
        way.multiply(left, right, result)
    expected = (left.double() @ right.detach().double().T).float()
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def test_ways_take_turns_and_the_one_with_the_shortest_batch_stays():
    clock = Clock()
    a, b = (Way(name, lambda *_: None, 1) for name in "ab")
    fastest = FastestWay([a, b], clock=clock)
    seconds = {"a": [5.0, 3.0, 4.0], "b": [9.0, 2.0, 9.0]}  # b was once undisturbed
    for _ in range(2 * ROUNDS + 3):
        with fastest.timed() as way:
            clock.taken.append(way.name)
            if seconds[way.name]:
                clock.now += seconds[way.name].pop(0)
    assert clock.taken == ["a", "b"] * ROUNDS + ["b"] * 3


@pytest.mark.parametrize(
    "sparsity", [TopK(5), BatchTopK(5), MatryoshkaTopK(5, prefixes=[16])], ids=lambda one: one.name
)
@pytest.mark.parametrize("encoder_bias", [False, True])
def test_weights_after_steps_are_the_same_to_the_bit_whichever_way_computed(sparsity, encoder_bias):
    weights = []
    for way in (*WAYS, IN_8_BITS) if sparsity.by_row and screening.available() else WAYS:
        sae = SparseAutoencoder(24, 96, copy.deepcopy(sparsity), encoder_bias=encoder_bias)
        sae._search._ways = sae._search._ways_by_row = FastestWay([way])
        optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
        generator = torch.Generator().manual_seed(3)
        for _ in range(4):
            optimizer.zero_grad()
            scaled = sae.scaled_pass(torch.randn(1100, 24, generator=generator))
            scaled.squared_errors.sum().backward()
            optimizer.step()
            sae.project()
        weights.append(torch.cat([part.detach().flatten() for part in sae.parameters()]))
    assert all(torch.equal(weights[0], others) for others in weights[1:])


def test_a_double_precision_autoencoder_trains_as_well():
    sae = SparseAutoencoder(4, 16, TopK(2), dtype=torch.float64)
    for _ in range(len(WAYS) * ROUNDS + 1):
        assert sae.scaled_pass(torch.randn(6, 4)).errors.dtype == torch.float64
