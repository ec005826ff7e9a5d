import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusae.errors import UserError
from diffusae.sae.sparsity import TopK, sparsity_from_config


def dense(codes, d_sae):
    return torch.zeros(*codes.values.shape[:-1], d_sae).scatter(-1, codes.indices, codes.values)


@given(rows=st.integers(1, 5), d_sae=st.integers(1, 30), data=st.data())
def test_topk_equals_sorting_every_row(rows, d_sae, data):
    k = data.draw(st.integers(1, d_sae))
    pre = torch.randn(rows, d_sae, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 999))))
    expected = torch.zeros_like(pre)
    for row in range(rows):
        for latent in sorted(range(d_sae), key=lambda latent: -float(pre[row, latent]))[:k]:
            expected[row, latent] = max(float(pre[row, latent]), 0.0)
    torch.testing.assert_close(dense(TopK(k)(pre), d_sae), expected, rtol=0, atol=0)


def test_topk_keeps_exactly_k_per_row_where_enough_are_positive():
    codes = TopK(3)(torch.rand(10, 8) + 0.1)
    assert codes.values.shape == codes.indices.shape == (10, 3)
    assert (codes.values > 0).all()
    assert all(len(set(row)) == 3 for row in codes.indices.tolist())


def test_topk_never_activates_a_negative_pre_activation():
    codes = TopK(3)(torch.tensor([[-1.0, 2.0, -3.0, -0.5]]))
    assert (codes.values > 0).sum() == 1
    assert dense(codes, 4).tolist() == [[0, 2, 0, 0]]


def test_topk_breaks_ties_the_same_way_every_time():
    tied = torch.ones(50, 40)
    first, second = TopK(7)(tied), TopK(7)(tied.clone())
    assert torch.equal(first.indices, second.indices)


@pytest.mark.parametrize("k", [0, -1])
def test_topk_refuses_k_below_one(k):
    with pytest.raises(UserError, match=f"k={k} must be at least 1"):
        TopK(k)


def test_a_sparsity_is_rebuilt_from_its_config():
    assert sparsity_from_config("topk", TopK(5).config()).k == 5


def test_an_unknown_sparsity_lists_the_known_ones():
    with pytest.raises(UserError, match="known: topk"):
        sparsity_from_config("topq", {})
