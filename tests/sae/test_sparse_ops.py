import torch
from torch.autograd import gradcheck

from diffusae.sae.sparse_ops import selected_pre_activations, sparse_decode, transposed_product


def example(batch=4, d_sae=7, d=3, k=2):
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(batch, k, generator=generator, dtype=torch.float64)
    indices = torch.stack([torch.randperm(d_sae, generator=generator)[:k] for _ in range(batch)])
    dense = torch.zeros(batch, d_sae, dtype=torch.float64).scatter(1, indices, values)
    return values, indices, dense, torch.randn(d_sae, d, generator=generator, dtype=torch.float64)


def test_sparse_decode_equals_the_dense_product():
    values, indices, dense, rows = example()
    torch.testing.assert_close(sparse_decode(values, indices, rows), dense @ rows)


def test_sparse_decode_keeps_leading_dimensions():
    values, indices, dense, rows = example()
    decoded = sparse_decode(values.reshape(2, 2, 2), indices.reshape(2, 2, 2), rows)
    torch.testing.assert_close(decoded, (dense @ rows).reshape(2, 2, 3))


def test_transposed_product_equals_the_dense_product():
    values, indices, dense, _ = example()
    other = torch.randn(4, 5, dtype=torch.float64)
    torch.testing.assert_close(transposed_product(values, indices, other, 7), dense.T @ other)


def test_selected_pre_activations_have_the_right_gradients():
    _, indices, _, weight = example()
    centred = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weight.requires_grad_()

    def selected(centred, weight):
        pre_activations = (centred @ weight.T).detach()
        return selected_pre_activations(centred, weight, pre_activations, indices)

    assert gradcheck(selected, (centred, weight))
