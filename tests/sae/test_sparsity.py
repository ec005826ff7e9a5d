import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusae.errors import UserError
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import (
    SPARSITIES,
    BatchTopK,
    JumpReLU,
    MatryoshkaTopK,
    ReLU,
    TopK,
    sparsity_from_config,
)


def dense(codes, d_sae):
    return codes.values.new_zeros(*codes.values.shape[:-1], d_sae).scatter(
        -1, codes.indices, codes.values
    )


@given(rows=st.integers(1, 5), d_sae=st.integers(1, 30), data=st.data())
def test_topk_equals_sorting_every_row(rows, d_sae, data):
    k = data.draw(st.integers(1, d_sae))
    pre = torch.randn(
        rows, d_sae, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    )
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
    with pytest.raises(UserError, match="known: batchtopk, jumprelu, matryoshka, relu, topk"):
        sparsity_from_config("topq", {})


# BatchTopK


def test_batchtopk_shares_its_budget_between_the_rows():
    codes = BatchTopK(1)(torch.tensor([[5.0, 4.0, 0.1], [1.0, 0.2, 0.3]]))
    assert dense(codes, 3).tolist() == [[5, 4, 0], [0, 0, 0]]


@given(rows=st.integers(1, 6), d_sae=st.integers(1, 40), data=st.data())
def test_batchtopk_equals_sorting_the_whole_batch(rows, d_sae, data):
    k = data.draw(st.integers(1, d_sae))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
    # Rows of very different size: the budget goes to few of them, and the first guess of a width is
    # too narrow.
    pre = torch.randn(rows, d_sae, generator=generator) * torch.logspace(0, 2, rows)[:, None]
    expected = torch.zeros_like(pre).flatten()
    best = pre.flatten().argsort(descending=True)[: k * rows]
    expected[best] = pre.flatten()[best].relu()
    torch.testing.assert_close(
        dense(BatchTopK(k)(pre), d_sae), expected.reshape(rows, d_sae), rtol=0, atol=0
    )


def test_batchtopk_in_use_cuts_every_row_at_the_running_mean_of_the_smallest_kept_value():
    sparsity = BatchTopK(1, threshold_rate=0.5)
    sparsity(torch.tensor([[4.0, 0.0], [0.0, 2.0]]))  # keeps 4 and 2: the first batch counts whole
    assert sparsity.threshold == 2
    sparsity(torch.tensor([[4.0, 0.0], [0.0, 3.0]]))
    assert sparsity.threshold == 2.5
    sparsity.eval()
    codes = sparsity(torch.tensor([[2.4, 2.6], [9.0, 8.0]]))
    assert torch.equal(dense(codes, 2), torch.tensor([[0, 2.6], [9, 8]]))
    assert sparsity.threshold == 2.5


# Penalised


def test_relu_penalty_is_the_mean_sum_of_codes_in_units_of_the_norm():
    sparsity = ReLU(l1=0.5)
    pre = torch.tensor([[3.0, -1.0], [1.0, 4.0]])
    z = sparsity.activate(pre)
    assert z.tolist() == [[3, 0], [1, 4]]
    assert sparsity.penalty(pre, z, 2.0) == 0.5 * (3 + 5) / 2 / 2.0


def test_jumprelu_keeps_what_exceeds_its_own_threshold():
    sparsity = JumpReLU(3, l0=0.25)
    sparsity.threshold.data = torch.tensor([1.0, 2.0, 0.0])
    pre = torch.tensor([[1.5, 1.5, -0.5], [0.5, 2.5, 0.5]])
    z = sparsity.activate(pre)
    assert z.tolist() == [[1.5, 0, 0], [0, 2.5, 0.5]]
    assert sparsity.penalty(pre, z, 1.0) == 0.25 * (1 + 2) / 2


def test_jumprelu_estimates_the_thresholds_gradient_from_what_lies_near():
    sparsity = JumpReLU(2, l0=2.0, bandwidth=0.4)
    sparsity.threshold.data = torch.tensor([1.0, 1.0])
    pre = torch.tensor(
        [[1.1, 1.3], [0.9, 5.0]], requires_grad=True
    )  # near 1 +- 0.2: both of the first latent
    z = sparsity.activate(pre)
    (z * torch.tensor([[3.0, 1.0], [1.0, 1.0]])).sum().backward()
    assert pre.grad is not None
    assert torch.equal(pre.grad, torch.tensor([[3.0, 1.0], [0.0, 1.0]]))
    torch.testing.assert_close(sparsity.threshold.grad, torch.tensor([-(3 + 1) * 1.0 / 0.4, 0.0]))
    sparsity.threshold.grad = None
    sparsity.penalty(pre, z, 1.0).backward()
    torch.testing.assert_close(sparsity.threshold.grad, torch.tensor([-2.0 * 2 / 0.4 / 2, 0.0]))


def test_a_threshold_that_fell_below_zero_is_brought_back():
    sparsity = JumpReLU(2, l0=0)
    sparsity.threshold.data = torch.tensor([-0.5, 0.5])
    sparsity.project()
    assert sparsity.threshold.tolist() == [0, 0.5]


# In the autoencoder


EXAMPLES = {
    "topk": TopK(3),
    "batchtopk": BatchTopK(3),
    "matryoshka": MatryoshkaTopK(3, prefixes=[4, 10]),
    "jumprelu": JumpReLU(20, l0=0.01),
    "relu": ReLU(l1=0.1),
}


@pytest.mark.parametrize("name", SPARSITIES)
def test_every_sparsity_has_the_gradients_of_plain_dense_autograd(name):
    torch.manual_seed(0)
    sae = SparseAutoencoder(
        6, 20, EXAMPLES[name], encoder_bias=True, input_scaling="none", dtype=torch.float64
    )
    sae.b.data, sae.b_enc.data = torch.randn(6).double(), torch.randn(20).double()
    sae.W_enc.data += 0.3 * torch.randn(20, 6)
    x = torch.randn(9, 6, dtype=torch.float64)
    scaled = sae.scaled_pass(x)
    weights = [sae.b, sae.W_enc, sae.b_enc, sae.W_dec]

    pre = (x - sae.b) @ sae.W_enc.T + sae.b_enc
    mask = dense(scaled.codes, 20) > 0
    z = pre * mask
    torch.testing.assert_close(x + scaled.error, z @ sae.W_dec + sae.b)
    upstream = torch.randn(9, 6, dtype=torch.float64)
    ours = torch.autograd.grad(((x + scaled.error) * upstream).sum(), weights, retain_graph=True)
    theirs = torch.autograd.grad(
        ((z @ sae.W_dec + sae.b) * upstream).sum(), weights, retain_graph=True
    )
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


def test_matryoshka_prefixes_are_decoded_from_the_first_latents_alone():
    torch.manual_seed(0)
    sae = SparseAutoencoder(6, 20, MatryoshkaTopK(5, prefixes=[4, 10]), input_scaling="none")
    x = torch.randn(9, 6)
    scaled = sae.scaled_pass(x)
    z = dense(scaled.codes, 20)
    for length, error in zip((4, 10, 20), scaled.errors.unbind(dim=1), strict=True):
        torch.testing.assert_close(x + error, z[:, :length] @ sae.W_dec[:length] + sae.b)


@pytest.mark.parametrize("name", ["topk", "batchtopk", "matryoshka"])
def test_selection_in_bfloat16_keeps_the_values_in_full_precision(name):
    torch.manual_seed(0)
    sae = SparseAutoencoder(
        32, 20, EXAMPLES[name], selection_precision="bfloat16", input_scaling="none"
    )
    x = torch.randn(9, 32)
    scaled = sae.scaled_pass(x)
    chosen = dense(scaled.codes, 20) > 0
    exact = ((x - sae.b) @ sae.W_enc.T + sae.b_enc).relu() * chosen
    torch.testing.assert_close(x + scaled.error, exact @ sae.W_dec + sae.b)


@pytest.mark.parametrize("encoder_bias", [False, True])
@pytest.mark.parametrize("name", ["topk", "batchtopk", "matryoshka"])
@pytest.mark.parametrize(("precision", "others"), [("bfloat16", 0), ("int8", 4)])
def test_a_search_in_few_bits_ends_with_the_latents_and_values_of_float32(
    name, precision, others, encoder_bias
):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(500, 256, generator=generator)
    bias = 0.3 * torch.randn(1024, generator=generator)
    kinds = {
        "topk": TopK(8),
        "batchtopk": BatchTopK(8),
        "matryoshka": MatryoshkaTopK(8, prefixes=[64]),
    }
    found = {}
    for each in ("float32", precision):
        sae = SparseAutoencoder(256, 1024, copy.deepcopy(kinds[name]), selection_precision=each,
                                encoder_bias=encoder_bias)  # fmt: skip
        with torch.no_grad():
            sae.b_enc.copy_(bias)
        found[each] = dense(sae.scaled_pass(x).codes, 1024)
    same = (found[precision] > 0) & (found["float32"] > 0)
    assert (found["float32"] > 0).sum() == (found[precision] > 0).sum() == 8 * 500
    assert (
        8 * 500 - same.sum() <= others
    )  # of 4000; without spare candidates 40 in bfloat16 and 80 in int8
    torch.testing.assert_close(found[precision][same], found["float32"][same], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["topk", "batchtopk", "matryoshka"])
def test_validation_chooses_in_full_precision(name):
    torch.manual_seed(0)
    sae = SparseAutoencoder(32, 20, EXAMPLES[name], selection_precision="bfloat16")
    exact = SparseAutoencoder(32, 20, EXAMPLES[name])
    x = torch.randn(9, 32)
    assert torch.equal(sae.eval().scaled_pass(x).errors, exact.eval().scaled_pass(x).errors)


@pytest.mark.parametrize("name", SPARSITIES)
def test_every_sparsity_is_rebuilt_from_its_config(name):
    again = sparsity_from_config(name, EXAMPLES[name].config())
    assert type(again) is type(EXAMPLES[name])
    assert again.config() == EXAMPLES[name].config()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MatryoshkaTopK(2, prefixes=[]), "prefixes=.. must be numbers of latents from 1"),
        (lambda: MatryoshkaTopK(2, prefixes=[8, 4]), "must rise"),
        (
            lambda: SparseAutoencoder(4, 8, MatryoshkaTopK(2, prefixes=[4, 8])),
            "must stay below d_sae=8",
        ),
        (lambda: BatchTopK(2, threshold_rate=0), "threshold_rate=0 must be in"),
        (lambda: ReLU(l1=-1), "l1=-1 must not be below 0"),
        (lambda: JumpReLU(8, l0=-1, bandwidth=0), "l0=-1 .*\n.*bandwidth=0 must be above 0"),
        (lambda: SparseAutoencoder(4, 8, JumpReLU(9, l0=1)), "9 thresholds for d_sae=8"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
