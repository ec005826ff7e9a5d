"""Ratios of our parts to their limits; `make bench` prints them."""

import pytest
import torch

from benchmarks.paired import paired
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.module import SAEModule, adam
from diffusae.sae.sparsity import TopK

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("d_in", "d_sae", "k", "batch"), [(128, 512, 16, 512), (1280, 5120, 20, 1024)]
)
def test_sae_step_against_its_encoder_product(d_in, d_sae, k, batch):
    x = torch.randn(batch, d_in)
    module = SAEModule(SparseAutoencoder(d_in, d_sae, TopK(k)), dead_after_vectors=10**9)
    module.initialise(x)
    step = module.step_of(adam(module.autoencoder.parameters(), module))
    weights = module.autoencoder.W_enc.detach()
    ratio = paired(lambda: step({"": x}), lambda: x @ weights.T)
    print(
        f"\nSAE step, d_in {d_in}, d_sae {d_sae}, k {k}, batch {batch}: {ratio:.1f} x its encoder"
        " product"
    )
    assert ratio > 1  # the product is part of the step: less is a broken measurement
