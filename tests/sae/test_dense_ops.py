"""Dense products in few bits beside float32. Gradients in float64 are tested in test_module."""

import copy

import pytest
import torch

from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.dense_ops import product
from diffusae.sae.module import SAEModule, adam
from diffusae.sae.sparsity import BatchTopK, JumpReLU, MatryoshkaTopK, ReLU, TopK

D_IN, D_SAE = 32, 128
SPARSITIES = {
    "topk": TopK(4),
    "batchtopk": BatchTopK(4),
    "matryoshka": MatryoshkaTopK(4, prefixes=[16, 64]),
    "jumprelu": JumpReLU(D_SAE, l0=0.01),
    "relu": ReLU(l1=0.1),
}


def test_products_in_bfloat16_are_summed_in_float32():
    ones = torch.ones(1, 257, dtype=torch.bfloat16)  # between 256 and 258 bfloat16 has nothing
    result = product(ones, ones.T)
    assert result.dtype == torch.float32
    assert result.item() == 257


def test_double_precision_stays():
    left = torch.randn(3, 5, dtype=torch.float64)
    assert torch.equal(product(left, left.T), left @ left.T)


def planted(rows: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.rand(rows, D_SAE, generator=generator).pow(30)
    directions = torch.randn(D_SAE, D_IN, generator=torch.Generator().manual_seed(7))
    return codes @ directions


@pytest.mark.parametrize("name", SPARSITIES)
def test_the_loss_in_few_bits_stays_within_half_a_per_cent_of_float32s(name):
    losses = {}
    for kernels, precision in (("torch", "float32"), ("dense", "bfloat16")):
        sae = SparseAutoencoder(
            D_IN,
            D_SAE,
            copy.deepcopy(SPARSITIES[name]),
            kernels=kernels,  # type: ignore[arg-type]
            selection_precision=precision,  # type: ignore[arg-type]
        )
        module = SAEModule(sae, dead_after_vectors=2000, k_aux=16, lr=1e-3)
        module.initialise(planted(256, 0))
        step = module.step_of(adam(sae.parameters(), module))
        history = [step({"": planted(256, seed)}).losses for seed in range(100)]
        losses[kernels] = torch.stack(history[-10:]).mean().item()
        assert history[0] > 1.1 * losses[kernels]
        assert sae.W_enc.dtype == torch.float32
    assert losses["dense"] == pytest.approx(losses["torch"], rel=0.005)


def test_the_largest_of_a_whole_batch_are_kept_and_the_threshold_follows():
    pre = torch.tensor([[5.0, 1.0, 4.0, 0.5], [3.0, -1.0, 2.0, 0.0]])
    sparsity = BatchTopK(2)
    # Four of eight: 5, 4, 3 and 2, of which the first row has two.
    expected = [[5, 0, 4, 0], [3, 0, 2, 0]]
    assert sparsity.dense(pre).tolist() == expected
    assert sparsity.threshold == 2
    uneven = torch.tensor([[5.0, 1.0, 4.0, 3.5], [-3.0, -1.0, 2.0, 0.0]])
    assert sparsity.dense(uneven).tolist() == [[5, 0, 4, 3.5], [0, 0, 2, 0]]
    assert sparsity.dense(-pre.abs()).sum() == 0
    assert sparsity.batches == 2  # a batch without an active latent does not count


@pytest.mark.parametrize("name", ["topk", "batchtopk"])
def test_dense_codes_are_the_codes(name):
    sparsity = copy.deepcopy(SPARSITIES[name])
    pre = torch.randn(9, D_SAE, generator=torch.Generator().manual_seed(0))
    codes = sparsity(pre)
    expected = torch.zeros(9, D_SAE).scatter_(1, codes.indices, codes.values)
    assert torch.equal(sparsity.dense(pre), expected)


@pytest.mark.parametrize("kernels", ["torch", "dense"])
@pytest.mark.parametrize("name", SPARSITIES)
def test_a_latent_has_fired_if_it_is_active_on_any_vector(name, kernels):
    sae = SparseAutoencoder(D_IN, D_SAE, SPARSITIES[name], kernels=kernels, encoder_bias=True)
    scaled = sae.scaled_pass(planted(6, 1))
    values, latents = scaled.codes
    fired = set(latents[values > 0].tolist())
    assert set(scaled.fired.nonzero().flatten().tolist()) == fired
    assert 0 < len(fired) < D_SAE or name == "relu"
