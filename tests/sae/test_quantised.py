import torch

from diffusae.sae.quantised import product, quantised


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
    error = (
        product(quantised(left), quantised(right), memory=torch.empty(64, 96, dtype=torch.int32))
        - exact
    )
    assert error.std() < 0.015 * exact.std()
