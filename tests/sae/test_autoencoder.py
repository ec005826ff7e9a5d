import pytest
import torch

from diffusae.errors import UserError
from diffusae.sae.autoencoder import SparseAutoencoder, geometric_median
from diffusae.sae.settings import InputScaling
from diffusae.sae.sparsity import BatchTopK, Codes, JumpReLU, MatryoshkaTopK, ReLU, TopK

SCALINGS = ["none", "mean_norm", "standardise"]


def fitted(scaling: InputScaling = "mean_norm", *, k=3, dtype=torch.float64):
    vectors = torch.randn(200, 6, generator=torch.Generator().manual_seed(1), dtype=dtype)
    vectors = 3 + vectors * torch.tensor([1.0, 2.0, 5.0, 0.1, 1.0, 1.0], dtype=dtype)
    sae = SparseAutoencoder(6, 20, TopK(k), input_scaling=scaling, seed=2, dtype=dtype)
    sae.initialise(vectors)
    return sae, vectors


@pytest.mark.parametrize("scaling", SCALINGS)
def test_the_sparse_pass_has_the_gradients_of_dense_autograd(scaling):
    sae, vectors = fitted(scaling)
    x_hat = sae.scale(vectors[:9]) + sae.scaled_pass(vectors[:9]).error
    x_hat.square().sum().backward()
    found = {name: parameter.grad for name, parameter in sae.named_parameters()}
    sae.zero_grad(set_to_none=True)

    x = (vectors[:9] - sae.input_shift) / sae.input_scale
    active = ((x - sae.b) @ sae.W_enc.T).relu()
    kept = active >= active.topk(3, dim=1).values[:, -1:]
    reconstruction = (active * kept) @ sae.W_dec + sae.b
    reconstruction.square().sum().backward()
    torch.testing.assert_close(x_hat, reconstruction)
    for name, parameter in sae.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, msg=name)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_codes_in_data_units_give_what_the_scaled_pass_gives(scaling):
    sae, vectors = fitted(scaling)
    torch.testing.assert_close(
        sae(vectors), sae.unscale(sae.scale(vectors) + sae.scaled_pass(vectors).error)
    )


@pytest.mark.parametrize("scaling", SCALINGS)
def test_one_unit_of_a_code_moves_the_reconstruction_by_one(scaling):
    sae, _ = fitted(scaling)
    none = sae.decode(Codes(torch.zeros(1, 1, dtype=torch.float64), torch.tensor([[4]])))
    one = sae.decode(Codes(torch.ones(1, 1, dtype=torch.float64), torch.tensor([[4]])))
    torch.testing.assert_close((one - none).norm(), torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close((one - none)[0], sae.directions[4])


def test_dense_codes_hold_the_sparse_ones_and_zeros():
    sae, vectors = fitted()
    codes, dense = (
        sae.encode(vectors.reshape(2, 100, 6)),
        sae.encode_dense(vectors.reshape(2, 100, 6)),
    )
    assert dense.shape == (2, 100, 20)
    assert torch.equal(dense.gather(2, codes.indices), codes.values)
    assert torch.equal(dense.count_nonzero(dim=2), (codes.values > 0).sum(dim=2))


def test_mean_norm_scales_the_mean_norm_to_the_root_of_d_in():
    sae, vectors = fitted("mean_norm")
    torch.testing.assert_close(sae.scale(vectors).norm(dim=1).mean().item(), 6**0.5)
    torch.testing.assert_close(sae.unscale(sae.scale(vectors)), vectors)


def test_standardise_gives_every_entry_mean_0_and_deviation_1_and_leaves_constant_entries_finite():
    sae, vectors = fitted("standardise")
    scaled = sae.scale(vectors)
    torch.testing.assert_close(scaled.mean(dim=0), torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(scaled.std(dim=0, correction=0), torch.ones(6, dtype=torch.float64))
    vectors[:, 0] = 3.0
    sae.initialise(vectors)
    assert sae.scale(vectors)[:, 0].abs().max() == 0


def test_a_new_autoencoder_has_a_unit_decoder_and_its_transpose_as_encoder():
    sae = SparseAutoencoder(5, 9, TopK(2), seed=1)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(9))
    assert torch.equal(sae.W_enc, sae.W_dec)
    assert not torch.equal(sae.W_dec, SparseAutoencoder(5, 9, TopK(2), seed=2).W_dec)


def test_the_projected_gradient_is_orthogonal_to_the_decoder():
    sae, vectors = fitted()
    sae.scaled_pass(vectors).error.square().sum().backward()
    sae.project_decoder_gradient()
    assert sae.W_dec.grad is not None
    assert sae.W_dec.grad.norm() > 0
    torch.testing.assert_close(
        (sae.W_dec.grad * sae.W_dec).sum(dim=1), torch.zeros(20, dtype=torch.float64)
    )


@pytest.mark.parametrize("where", ["geometric_median", "mean", "zero"])
def test_the_bias_begins_where_it_is_told_to(where):
    vectors = torch.randn(50, 4, generator=torch.Generator().manual_seed(3)).exp()
    sae = SparseAutoencoder(4, 8, TopK(2), input_scaling="none", initial_bias=where)
    sae.initialise(vectors)
    expected = {
        "geometric_median": geometric_median(vectors),
        "mean": vectors.mean(dim=0),
        "zero": torch.zeros(4),
    }
    torch.testing.assert_close(sae.b.data, expected[where])
    assert len({tuple(value.tolist()) for value in expected.values()}) == 3


def test_a_free_decoder_keeps_norms_and_gradients_and_still_gives_codes_in_data_units():
    sae = SparseAutoencoder(6, 20, TopK(3), decoder_norm="free", input_scaling="none", seed=2)
    x = torch.randn(9, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        sae.W_dec.mul_(torch.linspace(0.5, 2, 20)[:, None])
    rows = sae.W_dec.detach().clone()
    scaled = sae.scaled_pass(x)
    scaled.error.square().sum().backward()
    assert sae.W_dec.grad is not None
    gradient = sae.W_dec.grad.clone()
    sae.project_decoder_gradient()
    sae.project()
    assert torch.equal(sae.W_dec, rows)
    assert torch.equal(sae.W_dec.grad, gradient)
    torch.testing.assert_close(sae(x), x + scaled.error)
    torch.testing.assert_close(sae.directions.norm(dim=1), torch.ones(20))


def test_an_unknown_choice_lists_the_known_ones():
    with pytest.raises(UserError, match="unknown decoder norm 'none'; known: free, unit"):
        SparseAutoencoder(4, 8, TopK(2), decoder_norm="none")  # type: ignore[arg-type]


def test_k_above_d_sae_is_refused_with_the_remedy():
    with pytest.raises(UserError, match=r"^k=9000 exceeds d_sae=5120; lower sae\.k$"):
        SparseAutoencoder(640, 5120, TopK(9000))


def test_an_unknown_scaling_lists_the_known_ones():
    with pytest.raises(UserError, match="known: mean_norm, none, standardise"):
        SparseAutoencoder(4, 8, TopK(2), input_scaling="std")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "vectors", [torch.zeros(0, 4), torch.zeros(3, 5), torch.full((3, 4), torch.nan)]
)
def test_initialise_refuses_vectors_that_it_cannot_use(vectors):
    with pytest.raises(UserError):
        SparseAutoencoder(4, 8, TopK(2)).initialise(vectors)


def test_the_geometric_median_is_where_the_distances_sum_to_least():
    points = torch.randn(
        101, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).exp()
    median = geometric_median(points, max_iterations=1000, tolerance=1e-9)
    least = (points - median).norm(dim=1).sum()
    for step in torch.cat([torch.eye(3), -torch.eye(3)]) * 0.01:
        assert (points - median - step).norm(dim=1).sum() > least


def test_the_geometric_median_ignores_one_far_point():
    points = torch.cat([torch.zeros(9, 2), torch.tensor([[1000.0, 0.0]])])
    torch.testing.assert_close(geometric_median(points), torch.zeros(2), atol=0.1, rtol=0)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize(
    "sparsity",
    [TopK(3), MatryoshkaTopK(3, prefixes=[4]), BatchTopK(3), JumpReLU(16, l0=3), ReLU(l1=0.1)],
)
def test_the_lengths_of_codes_are_those_of_their_values(scaling, sparsity):
    x = (
        torch.randn(2, 30, 8, generator=torch.Generator().manual_seed(0)) * torch.linspace(1, 4, 8)
        + 2
    )
    sae = SparseAutoencoder(8, 16, sparsity, input_scaling=scaling, seed=0)
    sae.initialise(x.flatten(0, 1))
    sae(x)  # a threshold is learnt in training
    sae.eval()
    norms = sae.code_norms(x)
    assert norms.shape == (2, 30) and float(norms.max()) > 0
    torch.testing.assert_close(norms, sae.encode(x).values.norm(dim=-1))


def test_encoder_rows_begin_as_decoder_rows_at_the_norm_asked_for():
    sae = SparseAutoencoder(6, 20, TopK(3), encoder_norm=0.3)
    torch.testing.assert_close(sae.W_enc, 0.3 * sae.W_dec)
    with pytest.raises(UserError, match=r"encoder_norm=0 must be above 0; raise sae.encoder_norm"):
        SparseAutoencoder(6, 20, TopK(3), encoder_norm=0)
