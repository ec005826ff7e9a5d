"""Matched cosines of directions and maps against all assignments."""

from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import sparse

from diffusae.errors import UserError
from diffusae.evaluation.stability import matched_cosines, matched_maps, nearest_directions


def test_partners_are_found_whatever_their_order():
    directions = torch.eye(4)
    cosines = matched_cosines(directions, directions[[2, 0, 3, 1]])
    torch.testing.assert_close(cosines, torch.ones(4, dtype=torch.double))


def test_no_two_latents_share_a_partner():
    # Both rows are nearest to the first partner, which only one may have.
    rows = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    cosines = matched_cosines(rows, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert sorted(cosines.tolist()) == pytest.approx([0.6, 1.0])


def test_the_sum_is_the_best_of_all_assignments():
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(4, 3, generator=generator) for _ in range(2))
    cosines = F.normalize(one, dim=1) @ F.normalize(other, dim=1).T
    orders = permutations(range(4))
    best = max(sum(float(cosines[i, j]) for i, j in enumerate(order)) for order in orders)
    assert float(matched_cosines(one, other).sum()) == pytest.approx(best, abs=1e-5)


def test_saes_that_cannot_be_compared_are_refused():
    with pytest.raises(UserError, match="give SAEs of one cell"):
        matched_cosines(torch.eye(3), torch.eye(4))
    with pytest.raises(UserError, match="3 latents need as many partners, got 2"):
        matched_cosines(torch.eye(3), torch.eye(3)[:2])


def test_maps_are_matched_by_their_correlation_whatever_their_order_and_scale():
    rng = np.random.default_rng(0)
    codes = rng.random((40, 4)) * (rng.random((40, 4)) < 0.5)
    others = np.column_stack([rng.random(40), 3 * codes[:, [2, 0, 3, 1]]])
    one, other = sparse.csc_array(codes), sparse.csc_array(others)
    np.testing.assert_allclose(matched_maps(one, other, np.arange(4)), np.ones(4))
    alone = matched_maps(one, sparse.csc_array(others[:, :2]), np.array([1]))
    assert alone[0] == pytest.approx(np.corrcoef(codes[:, 1], others[:, :2].T)[0, 1:].max())


def test_a_map_that_never_varies_is_like_no_other():
    silent = sparse.csc_array(np.zeros((6, 2)))
    other = sparse.csc_array(np.eye(6)[:, :2])
    assert matched_maps(silent, other, np.arange(2)).tolist() == [0, 0]
    with pytest.raises(UserError, match="as many partners"):
        matched_maps(other, sparse.csc_array(np.eye(5)), np.arange(2))


def test_the_nearest_direction_is_the_row_of_the_largest_cosine_whatever_the_lengths():
    directions = torch.tensor([[2.0, 0.0], [0.0, 0.5], [1.0, 1.0]])
    others = torch.tensor([[-1.0, 0.0], [3.0, 3.0], [5.0, 0.0]])
    cosines, which = nearest_directions(directions, others, rows_at_once=2)
    assert which.tolist() == [2, 1, 1]
    assert cosines.tolist() == pytest.approx([1.0, 0.5**0.5, 1.0])


def test_directions_of_other_widths_have_no_nearest():
    with pytest.raises(UserError, match="blocks of one width"):
        nearest_directions(torch.ones(2, 3), torch.ones(2, 4))
