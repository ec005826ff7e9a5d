import pytest
import torch

from diffusae.errors import UserError
from diffusae.interventions.directions import difference_of_means, neuron
from diffusae.interventions.windows import WINDOWS, window_at

VECTORS = torch.tensor([[3.0, 0.0], [5.0, 2.0], [1.0, 4.0], [7.0, 9.0]])


def test_the_difference_of_means_by_hand():
    having, lacking = torch.tensor([True, True, False, False]), torch.tensor([False, False, True, False])
    # (4, 1) - (1, 4); the last vector is neither.
    expected = torch.tensor([3.0, -3.0]) / 18**0.5
    torch.testing.assert_close(difference_of_means(VECTORS, having, lacking), expected)


def test_a_difference_needs_both_sides_and_a_difference():
    nobody, all_of_them = torch.zeros(4, dtype=torch.bool), torch.ones(4, dtype=torch.bool)
    with pytest.raises(UserError, match="with the property and updates without"):
        difference_of_means(VECTORS, nobody, all_of_them)
    with pytest.raises(UserError, match="both means are the same"):
        difference_of_means(VECTORS, all_of_them, all_of_them)


def test_a_neuron_is_the_strongest_entry_with_its_sign():
    assert neuron(torch.tensor([0.3, -0.9, 0.5])).tolist() == [0.0, -1.0, 0.0]


@pytest.mark.parametrize(("t", "name"), [(1.0, "early"), (0.8, "early"), (0.6, "early"), (0.5, "middle"),
                                         (0.2, "middle"), (0.1, "final"), (0.0, "final")])  # fmt: skip
def test_every_t_has_its_window(t, name):
    assert window_at(t) == WINDOWS[name]


def test_a_t_outside_has_none():
    with pytest.raises(UserError, match=r"t=1\.5 lies outside"):
        window_at(1.5)
