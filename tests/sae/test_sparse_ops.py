import pytest
import torch

from diffusae.sae import sparse_ops
from diffusae.sae.sparse_ops import Entries, chosen_errors, sparse_decode, sums_of_rows


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


def ragged():
    """Rows with 2, 0, 3 and 1 entries of 7 columns."""
    columns = torch.tensor([1, 5, 0, 2, 6, 3])
    starts = torch.tensor([0, 2, 2, 5])
    return Entries(columns, starts, d_sae=7), torch.tensor([0, 0, 2, 2, 2, 3])


def test_entries_know_their_rows():
    entries, rows = ragged()
    assert torch.equal(entries.rows, rows)


def test_active_entries_are_those_of_the_mask():
    indices = torch.tensor([[4, 1], [3, 0], [2, 5]])
    active = torch.tensor([[True, False], [False, False], [True, True]])
    entries = Entries.where(active, indices, d_sae=6)
    assert entries.columns.tolist() == [4, 2, 5]
    assert entries.starts.tolist() == [0, 1, 1]
    assert entries.rows.tolist() == [0, 2, 2]


def test_cut_rows_hold_the_columns_between_the_cuts():
    entries, _ = ragged()
    parts = entries.cut([2, 5])  # [0, 2), [2, 5), [5, 7)
    assert parts.rows.tolist() == [0, 2, 6, 7, 8, 10]
    assert torch.equal(parts.columns, entries.columns)
    ends = [*parts.starts.tolist()[1:], 6]
    assert [e - s for s, e in zip(parts.starts.tolist(), ends, strict=True)] == [
        1,
        0,
        1,
        0,
        0,
        0,
        1,
        1,
        1,
        0,
        1,
        0,
    ]


def test_products_with_ragged_entries_equal_the_dense_ones():
    entries, rows = ragged()
    generator = torch.Generator().manual_seed(1)
    values, weight = torch.rand(6, generator=generator), torch.randn(7, 3, generator=generator)
    dense = torch.zeros(4, 7).index_put((rows, entries.columns), values)
    torch.testing.assert_close(entries.times(values, weight), dense @ weight)
    left = torch.randn(4, 3, generator=generator)
    torch.testing.assert_close(
        entries.inner(left, weight), (left @ weight.T)[rows, entries.columns]
    )


def test_inner_products_column_after_column_are_the_same():
    generator = torch.Generator().manual_seed(1)
    indices = torch.stack([torch.randperm(50, generator=generator)[:9] for _ in range(20)])
    entries = Entries.every(indices, d_sae=50)
    left, right = (torch.randn(rows, 33, generator=generator) for rows in (20, 50))
    assert torch.equal(entries.inner_by_column(left, right), entries.inner(left, right))


@pytest.mark.parametrize(
    "used", [(True, False), (False, True), (True, True)], ids=["errors", "squares", "both"]
)
@pytest.mark.parametrize("cuts", [[], [2, 5]], ids=["whole", "prefixes"])
def test_the_chosen_errors_and_their_squares_have_the_gradients_of_dense_autograd(used, cuts):
    entries, rows = ragged()
    generator = torch.Generator().manual_seed(2)
    ends = [*cuts, 7]
    x, W_enc, W_dec, b, b_enc, *upstream = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((4, 3), (7, 3), (7, 3), (3,), (7,), (4, len(ends), 3), (len(ends),))
    )
    weights = [w.requires_grad_() for w in (b, W_enc, b_enc, W_dec)]
    parts = entries.cut(cuts) if cuts else entries

    def dense():
        pre = (x - b) @ W_enc.T + b_enc
        chosen = torch.zeros(4, 7, dtype=torch.float64).index_put(
            (rows, entries.columns), torch.tensor(1.0).double()
        )
        z = pre.relu() * chosen
        errors = torch.stack([z[:, :end] @ W_dec[:end] + b for end in ends], dim=1) - x[:, None]
        return errors, errors.square().sum(dim=(0, 2))

    def sparse():
        with torch.no_grad():
            centred = x - b
            pre = (centred @ W_enc.T + b_enc)[rows, entries.columns]
        return chosen_errors(
            centred, pre, entries, parts, b=b, W_enc=W_enc, b_enc=b_enc, W_dec=W_dec
        )

    torch.testing.assert_close(sparse(), dense())

    def gradients(made):
        total = torch.zeros((), dtype=torch.float64)
        for part, of_part, use in zip(made, upstream, used, strict=True):
            if use:
                total = total + (part * of_part).sum()
        return torch.autograd.grad(total, weights)

    for mine, other in zip(gradients(sparse()), gradients(dense()), strict=True):
        torch.testing.assert_close(mine, other)


def test_sums_by_parts_of_the_columns_are_those_of_whole_rows(monkeypatch):
    entries, _ = ragged()
    generator = torch.Generator().manual_seed(1)
    weights, dense = torch.rand(6, generator=generator), torch.randn(7, 40, generator=generator)
    whole = sums_of_rows(dense, entries.columns, entries.starts, weights)
    monkeypatch.setattr(sparse_ops, "CACHE", 7 * 4 * 17)  # 16 columns at a time: 16 + 16 + 8
    assert torch.equal(sums_of_rows(dense, entries.columns, entries.starts, weights), whole)
    memory = torch.full_like(whole, torch.nan)
    sums = sums_of_rows(dense, entries.columns, entries.starts, weights, memory=memory)
    assert sums is memory
    assert torch.equal(sums, whole)
