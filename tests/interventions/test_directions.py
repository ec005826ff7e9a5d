from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusae.errors import UserError
from diffusae.interventions.directions import Contrast, TellingLatents, neuron
from diffusae.interventions.windows import WINDOWS, window_at
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
from sae.pretend_device import ELSEWHERE, Elsewhere, pretend_device

UPDATES = torch.tensor([[3.0, 0.0], [5.0, 2.0], [1.0, 4.0], [7.0, 9.0]])
CODES = torch.tensor([[2.0, 0.0, 0.5], [4.0, 0.0, 0.5], [1.0, 6.0, 0.5], [9.0, 9.0, 9.0]])
HAVING = torch.tensor([True, True, False, False])
LACKING = torch.tensor([False, False, True, False])


def contrast(having=HAVING, lacking=LACKING):
    gathered = Contrast(2, 3)
    gathered.add(UPDATES, CODES, having=having, lacking=lacking)
    return gathered


def test_the_difference_of_means_by_hand():
    # (4, 1) - (1, 4); the last vector is neither.
    expected = torch.tensor([3.0, -3.0]) / 18**0.5
    torch.testing.assert_close(contrast().difference_of_means(), expected)


def test_a_difference_needs_both_sides_and_a_difference():
    nobody, all_of_them = torch.zeros(4, dtype=torch.bool), torch.ones(4, dtype=torch.bool)
    assert not contrast(lacking=nobody).complete
    with pytest.raises(UserError, match="with the property and updates without"):
        contrast(lacking=nobody).difference_of_means()
    with pytest.raises(UserError, match="both means are the same"):
        contrast(having=all_of_them, lacking=all_of_them).difference_of_means()


def test_telling_latents_have_larger_codes_with_the_property_and_the_difference_as_weight():
    best = contrast().telling(3)
    assert best is not None
    # Mean codes (3, 0, .5) with it and (1, 6, .5) without: only latent 0 is larger.
    assert best.latents.tolist() == [0]
    assert best.weights.tolist() == [2.0]


def test_the_most_telling_latent_differs_most_in_standard_deviations():
    # The differences are 2 and 3, the deviations 1 and 4.1.
    codes = torch.tensor([[3.0, 10.0], [3.0, 0.0], [1.0, 0.0], [1.0, 4.0]])
    having = torch.tensor([True, True, False, False])
    gathered = Contrast(2, 2)
    gathered.add(UPDATES, codes, having=having, lacking=~having)
    one, both = gathered.telling(1), gathered.telling(5)
    assert one is not None and one.latents.tolist() == [0]
    assert both is not None and both.latents.tolist() == [0, 1]
    assert both.weights.tolist() == [2.0, 3.0]


def test_without_a_larger_code_no_latent_shows_the_property():
    lacking = torch.tensor([False, False, False, True])
    assert contrast(having=LACKING, lacking=lacking).telling(3) is None


def test_a_contrast_on_a_device_waits_for_nothing_while_it_is_filled():
    with pretend_device() as crossed:
        there = Contrast(2, 3, device=ELSEWHERE)
        given: Any = [Elsewhere(part) for part in (UPDATES, CODES, HAVING, LACKING)]
        for _ in range(3):
            there.add(given[0], given[1], having=given[2], lacking=given[3])
        assert crossed == {}
        found: Any = there.difference_of_means()
    torch.testing.assert_close(found.here, contrast().difference_of_means())


@given(st.integers(0, 2**31), st.integers(1, 5))
def test_parts_add_up_to_the_whole(seed, n_parts):
    generator = torch.Generator().manual_seed(seed)
    updates, codes = torch.randn(20, 2, generator=generator), torch.rand(20, 3, generator=generator)
    having = torch.arange(20) % 3 == 0
    whole, parts = Contrast(2, 3), Contrast(2, 3)
    whole.add(updates, codes, having=having, lacking=~having)
    chunks = (rows.chunk(n_parts) for rows in (updates, codes, having))
    for u, z, h in zip(*chunks, strict=True):
        parts.add(u, z, having=h, lacking=~h)
    torch.testing.assert_close(parts.difference_of_means(), whole.difference_of_means())
    first, second = parts.telling(2), whole.telling(2)
    assert (first is None) == (second is None)
    if first is not None and second is not None:
        torch.testing.assert_close(first.weights, second.weights)


def test_the_direction_of_telling_latents_is_their_weighted_sum_of_unit_length():
    sae = SparseAutoencoder(4, 8, TopK(k=2), seed=0)
    latents = TellingLatents(torch.tensor([1, 5]), torch.tensor([3.0, 4.0]))
    expected = 3 * sae.directions[1] + 4 * sae.directions[5]
    torch.testing.assert_close(latents.direction(sae), (expected / expected.norm()).detach())


def test_a_neuron_is_the_strongest_entry_with_its_sign():
    assert neuron(torch.tensor([0.3, -0.9, 0.5])).tolist() == [0.0, -1.0, 0.0]


@pytest.mark.parametrize(
    ("name", "times"), [("early", (1.0, 0.8, 0.6)), ("middle", (0.5, 0.2)), ("final", (0.1, 0.0))]
)
def test_every_t_has_its_window(name, times):
    assert {window_at(t) for t in times} == {WINDOWS[name]}


def test_a_t_outside_has_none():
    with pytest.raises(UserError, match=r"t=1\.5 lies outside"):
        window_at(1.5)
