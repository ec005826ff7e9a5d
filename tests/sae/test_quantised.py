import torch

from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.quantised import product, quantised
from diffusae.sae.sparsity import TopK


def matrix(rows, seed):
    return torch.randn(rows, 256, generator=torch.Generator().manual_seed(seed))


def test_no_entry_is_off_by_more_than_half_a_step():
    exact = matrix(40, 0) * torch.logspace(-3, 3, 40).unsqueeze(1)
    integers, scales = quantised(exact)
    assert integers.dtype == torch.int8
    assert ((integers * scales - exact).abs() <= scales * 0.5001).all()


def test_a_row_of_zeros_stays_one():
    integers, scales = quantised(torch.zeros(2, 8))
    assert (integers * scales == 0).all()


def test_the_product_is_off_by_about_one_percent_of_its_deviation():
    left, right = matrix(64, 1), matrix(96, 2)
    exact = left @ right.T
    error = product(quantised(left), quantised(right), memory=torch.empty(64, 96, dtype=torch.int32)) - exact
    assert error.std() < 0.015 * exact.std()


def test_latents_chosen_in_8_bits_are_nearly_those_of_float32_and_their_values_exact():
    x = matrix(300, 3)
    codes = {}
    for precision in ("float32", "int8"):
        sae = SparseAutoencoder(256, 1024, TopK(8), selection_precision=precision, encoder_bias=True)
        with torch.no_grad():
            sae.b_enc.copy_(0.3 * matrix(4, 4).flatten())
        codes[precision] = sae.scaled_pass(x).codes
    dense = {name: torch.zeros(300, 1024).scatter(1, c.indices, c.values) for name, c in codes.items()}
    both = (dense["float32"] > 0) & (dense["int8"] > 0)
    assert both.sum() > 0.97 * (dense["float32"] > 0).sum()
    torch.testing.assert_close(dense["int8"][both], dense["float32"][both], rtol=1e-4, atol=1e-5)
