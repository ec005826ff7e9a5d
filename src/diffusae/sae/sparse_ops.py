"""Products with sparse codes whose cost grows with the active latents, not with d_sae, forwards and
backwards.

Dense autograd would fill a [batch, d_sae] gradient and multiply it twice, although only a few
entries a row are not zero. What cannot be avoided is one dense product: the pre-activations.

Codes are a sparse matrix Z [rows, d_sae] as `Entries`: its entries row after row, their columns,
and where every row starts. An example with 2 rows, 3 latents and 2 active latents a row:

>>> Z = Entries.every(torch.tensor([[0, 2], [1, 2]]), d_sae=3)  # [[1, 0, 2], [0, 3, 4]]
>>> values = torch.tensor([1., 2, 3, 4])
>>> Z.columns, Z.rows, Z.starts
(tensor([0, 2, 1, 2]), tensor([0, 0, 1, 1]), tensor([0, 2]))
>>> W = torch.tensor([[1., 0], [0, 1], [1, 1]])  # a row a latent
>>> Z.times(values, W)  # row 0: 1 W[0] + 2 W[2]; row 1: 3 W[1] + 4 W[2]
tensor([[3., 2.],
        [4., 7.]])
>>> Z.inner(torch.tensor([[5., 6], [7, 8]]), W)  # row 0 . W[0], row 0 . W[2], row 1 . W[1], ...
tensor([ 5., 11.,  8., 15.])
>>> Z.by_column()  # sorted by latent the entries are 0, 2, 1, 3; latents begin at 0, 1 and 2
(tensor([0, 2, 1, 3]), tensor([0, 1, 2]))
>>> Z.cut([1]).starts  # before latent 1: rows of 1, 1, 0 and 2 entries
tensor([0, 1, 2, 2])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

CACHE = 1_400_000
"""Bytes of a matrix that are picked from at a time: two thirds of the 2 MB that cores of servers
have to themselves.
"""
ALIGNED = 16
"""Columns are taken in multiples of this: a cache line of float32."""


def sparse_decode(
    values: Float[Tensor, "... k"], indices: Int[Tensor, "... k"], rows: Float[Tensor, "d_sae d"]
) -> Float[Tensor, "... d"]:
    """Z @ rows for the sparse matrix Z of `values` at `indices`; differentiable in `values` and
    `rows`.
    """
    k = indices.shape[-1]
    product = F.embedding_bag(
        indices.reshape(-1, k),
        rows,
        per_sample_weights=values.reshape(-1, k).to(rows.dtype),
        mode="sum",
    )
    return product.reshape(*indices.shape[:-1], rows.shape[1])


def sums_of_rows(
    dense: Float[Tensor, "n d"],
    rows: Int[Tensor, " entries"],
    starts: Int[Tensor, " sums"],
    weights: Float[Tensor, " entries"],
    *,
    uneven: bool = False,
    memory: Float[Tensor, "sums d"] | None = None,
) -> Float[Tensor, "sums d"]:
    """Weighted sums of rows of `dense`: sum i is of the entries from starts[i] up to the next
    start.

    `uneven`, that some are far longer than others, matters to kernels that split these. `memory` is
    where the sums may be put.

    On a CPU, columns are taken so many at a time that those of all rows stay in the core's own
    cache while rows are picked from all over it. The result is the same to the bit.
    """
    columns = CACHE // (dense.element_size() * max(1, len(dense))) // ALIGNED * ALIGNED
    if dense.device.type != "cpu" or not ALIGNED <= columns < dense.shape[1]:
        return F.embedding_bag(rows, dense, offsets=starts, per_sample_weights=weights, mode="sum")
    sums = dense.new_empty(len(starts), dense.shape[1]) if memory is None else memory
    for part, of_part in zip(dense.split(columns, 1), sums.split(columns, 1), strict=True):
        of_part.copy_(
            F.embedding_bag(
                rows, part.contiguous(), offsets=starts, per_sample_weights=weights, mode="sum"
            )
        )
    return sums


def inner_products(
    left: Float[Tensor, "rows d"],
    right: Float[Tensor, "columns d"],
    rows: Int[Tensor, " n"],
    columns: Int[Tensor, " n"],
    starts: Int[Tensor, " rows"],
) -> Float[Tensor, " n"]:
    """left[rows[i]] . right[columns[i]] of every entry, in any order of the entries."""
    # The gradient of `sums_of_rows` by its weights is this product, and torch has a kernel for it.
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        left.contiguous(), right, columns, starts, rows, mode=0
    )


class _SumsOfRows(Protocol):
    def __call__(
        self,
        dense: Tensor,
        rows: Tensor,
        starts: Tensor,
        weights: Tensor,
        *,
        uneven: bool = False,
        memory: Tensor | None = None,
    ) -> Tensor: ...


class _InnerProducts(Protocol):
    def __call__(
        self, left: Tensor, right: Tensor, rows: Tensor, columns: Tensor, starts: Tensor
    ) -> Tensor: ...


class Kernels(NamedTuple):
    """What computes with entries, as `sums_of_rows` and `inner_products` do to rounding."""

    sums_of_rows: _SumsOfRows
    inner_products: _InnerProducts


TORCH = Kernels(sums_of_rows, inner_products)


class Entries:
    """The entries of a sparse [rows, d_sae] matrix, row after row: entry i is column `columns[i]`
    of its row.

    Args:
        columns: int64 [n]. starts: int64 [rows], where each row's entries begin.
        cuts: rows that were made of each row by `cut`.
        kernels: what computes with them.
    """

    def __init__(
        self,
        columns: Int[Tensor, " n"],
        starts: Int[Tensor, " rows"],
        *,
        d_sae: int,
        cuts: int = 1,
        kernels: Kernels = TORCH,
    ) -> None:
        self.columns, self.starts, self.d_sae, self.cuts = columns, starts, d_sae, cuts
        self.kernels = kernels
        ends = F.pad(starts[1:], (0, 1), value=len(columns))
        self.rows = torch.repeat_interleave(ends - starts, output_size=len(columns))
        """int64 [n], each entry's row."""

    @classmethod
    def every(
        cls, indices: Int[Tensor, "rows k"], *, d_sae: int, kernels: Kernels = TORCH
    ) -> Entries:
        """All k entries of every row."""
        rows, k = indices.shape
        starts = torch.arange(0, rows * k, k, device=indices.device)
        return cls(indices.flatten(), starts, d_sae=d_sae, kernels=kernels)

    @classmethod
    def where(
        cls,
        active: Bool[Tensor, "rows k"],
        indices: Int[Tensor, "rows k"],
        *,
        d_sae: int,
        kernels: Kernels = TORCH,
    ) -> Entries:
        """The active entries of every row."""
        counts = active.sum(dim=1)
        return cls(indices[active], counts.cumsum(0) - counts, d_sae=d_sae, kernels=kernels)

    def cut(self, columns: Sequence[int]) -> Entries:
        """The same entries with every row cut before each of these columns: row r becomes the rows
        r * (1 + len(columns)) + (0, 1, ...). Within a row the columns must rise.
        """
        cuts = len(columns) + 1
        bag = self.rows * cuts
        for column in columns:
            bag += self.columns >= column
        return Entries(
            self.columns,
            _starts(bag, len(self.starts) * cuts),
            d_sae=self.d_sae,
            cuts=cuts,
            kernels=self.kernels,
        )

    def times(
        self,
        values: Float[Tensor, " n"],
        weight: Float[Tensor, "d_sae d"],
        *,
        memory: Float[Tensor, "rows d"] | None = None,
    ) -> Float[Tensor, "rows d"]:
        """Z @ weight, which may be put into `memory`."""
        return self.kernels.sums_of_rows(weight, self.columns, self.starts, values, memory=memory)

    def inner(
        self, left: Float[Tensor, "rows d"], right: Float[Tensor, "d_sae d"]
    ) -> Float[Tensor, " n"]:
        """left[row] . right[column] of every entry: (left @ right^T) where Z is not zero."""
        return self.kernels.inner_products(left, right, self.rows, self.columns, self.starts)

    def inner_by_column(
        self, left: Float[Tensor, "rows d"], right: Float[Tensor, "d_sae d"]
    ) -> Float[Tensor, " n"]:
        """`inner`, to the bit, column after column. Where a CPU's cache holds the rows of `left`
        and not those of `right`, this is faster: a row of `right` is read only once.
        """
        order, _ = self.by_column()
        products = self.kernels.inner_products(
            left, right, self.rows[order], self.columns[order], self.starts
        )
        return torch.empty_like(products).index_copy_(0, order, products)

    def by_column(self) -> tuple[Int[Tensor, " n"], Int[Tensor, " d_sae"]]:
        """The order that sorts the entries by column, and where each column begins in it."""
        # Short keys are sorted several times faster.
        short = torch.int16 if self.d_sae <= torch.iinfo(torch.int16).max else torch.int32
        columns, order = torch.sort(self.columns.to(short), stable=True)
        return order, _starts(columns, self.d_sae)


def _starts(numbers: Int[Tensor, " n"], count: int) -> Int[Tensor, " count"]:
    """Where each of the numbers 0 to `count` - 1 begins among rising `numbers`. (bincount would
    wait for a GPU.)
    """
    every = torch.arange(count, dtype=numbers.dtype, device=numbers.device)
    return torch.searchsorted(numbers, every)


def row_products(
    left: Float[Tensor, "rows d"], right: Float[Tensor, "rows d"]
) -> Float[Tensor, " rows"]:
    """left[i] . right[i] of every row, without the tensor of products that `torch.linalg.vecdot`
    makes.
    """
    diagonal = Entries.every(
        torch.arange(len(left), device=left.device).unsqueeze(1), d_sae=len(right)
    )
    return diagonal.inner(left, right)


class Memory(NamedTuple):
    """What results of `chosen_errors` may be written into."""

    errors: Float[Tensor, "rows 1 d_in"] | None = None
    of_W_enc: Float[Tensor, "d_sae d_in"] | None = None
    of_W_dec: Float[Tensor, "d_sae d_in"] | None = None


class Target(NamedTuple):
    """What a transcoder reconstructs in the place of its input."""

    centred: Float[Tensor, "rows d_out"]
    """Less the decoder's bias, a constant."""
    b: Float[Tensor, " d_out"]
    """The decoder's bias."""


def chosen_errors(
    centred: Float[Tensor, "rows d_in"],
    pre_activations: Float[Tensor, " n"],
    entries: Entries,
    parts: Entries,
    *,
    b: Float[Tensor, " d_in"],
    W_enc: Float[Tensor, "d_sae d_in"],
    b_enc: Float[Tensor, " d_sae"],
    W_dec: Float[Tensor, "d_sae d_out"],
    target: Target | None = None,
    total: Callable[[Tensor], Tensor] = lambda part: part,
    memory: Memory | None = None,
) -> tuple[Float[Tensor, "rows prefixes d_out"], Float[Tensor, " prefixes"]]:
    """x_hat - x with x_hat = relu(W_enc (x - b) + b_enc) W_dec + b at the chosen entries, and the
    sum over the rows of their squared norms. Both are differentiable in the weights, the sum at
    less cost.

    Args:
        centred: the vectors less b, a constant.
        pre_activations: W_enc (x - b) + b_enc at the entries: they are not computed again.
        entries: the chosen entries of [rows, d_sae].
        parts: the same entries with every row cut into as many parts. Prefix p is reconstructed
            from parts 0 to p.
        target: what stands in the place of x and b at the decoder; None: x and b themselves.
        total: adds to a sum over the latents what other processes have (`Sparsity.total`); by
            default there are none.
        memory: where results may be put.
    """
    wanted, b_target = target or (centred, None)
    options = (pre_activations, entries, parts, total, memory or Memory())
    return _ChosenErrors.apply(  # type: ignore[no-any-return]
        centred, b, W_enc, b_enc, W_dec, wanted, b_target, *options
    )


class _ChosenErrors(torch.autograd.Function):
    """The gradients are written out. G is the gradient of the reconstruction, [rows, d_in], and E
    that of the pre-activations, which is G W_dec^T at the entries with z > 0 and 0 elsewhere:

        dW_dec = Z^T G
        dW_enc = E^T (x - b)
        db_enc = E^T 1
        db     = G^T 1 - W_enc^T db_enc    (b is added at the end, and taken off before W_enc)

    Of a transcoder, the first part is the gradient of the bias that the decoder adds.

    Both products with a transposed sparse matrix are sums of rows over the entries sorted by
    latent, and share the sort.
    """

    @staticmethod
    def forward(
        ctx: Any,
        centred: Tensor,
        b: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        W_dec: Tensor,
        wanted: Tensor,
        b_target: Tensor | None,
        pre_activations: Tensor,
        entries: Entries,
        parts: Entries,
        total: Callable[[Tensor], Tensor],
        memory: Memory,
    ) -> tuple[Tensor, Tensor]:
        values = pre_activations.relu()
        old = None if memory.errors is None or parts.cuts > 1 else memory.errors.squeeze(1)
        errors = total(parts.times(values, W_dec, memory=old))
        errors = errors.unflatten(0, (len(centred), parts.cuts))
        if errors.shape[1] > 1:
            errors = errors.cumsum(dim=1)
        # b, which x_hat adds, and the b of x - b cancel.
        errors = errors.sub_(wanted.unsqueeze(1))
        ctx.transcodes = b_target is not None
        ctx.save_for_backward(centred, W_enc, W_dec, values, errors)
        ctx.entries, ctx.parts, ctx.total, ctx.memory = entries, parts, total, memory
        ctx.set_materialize_grads(False)
        return errors, torch.linalg.vector_norm(errors, dim=-1).square().sum(dim=0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        centred, W_enc, W_dec, values, errors = ctx.saved_tensors
        entries, parts = ctx.entries, ctx.parts
        # G = times * gradient
        gradient, times = gradient_of_errors(errors, *gradients)
        of_x_hat = gradient.sum(dim=(0, 1)) * times
        if gradient.shape[1] > 1:
            # Part p is in the prefixes p, p + 1, ...: its gradient is the sum of theirs.
            gradient = gradient.flip(1).cumsum(dim=1).flip(1)
        gradient = gradient.flatten(0, 1).contiguous()
        of_values = parts.inner(gradient, W_dec) * (values > 0) * times  # E at the entries
        order, starts = entries.by_column()

        # Sums over the entries of every latent; "uneven": some latents are active in every row.
        sums = entries.kernels.sums_of_rows
        _, for_W_enc, for_W_dec = ctx.memory
        weights = values[order] * times
        of_W_dec = sums(gradient, parts.rows[order], starts, weights, uneven=True, memory=for_W_dec)
        weights = of_values[order]
        of_W_enc = sums(
            centred, entries.rows[order], starts, weights, uneven=True, memory=for_W_enc
        )
        # index_add_ would add in any order on a GPU, and give other bits every time.
        of_b_enc = sums(
            of_values.unsqueeze(1), order, starts, torch.ones_like(of_values), uneven=True
        )
        of_b_enc = of_b_enc.squeeze(1)
        before = ctx.total(of_b_enc @ W_enc)
        of_b, of_b_target = (-before, of_x_hat) if ctx.transcodes else (of_x_hat - before, None)
        return None, of_b, of_W_enc, of_b_enc, of_W_dec, None, of_b_target, *[None] * 5


def gradient_of_errors(
    errors: Float[Tensor, "rows prefixes d_in"],
    of_errors: Float[Tensor, "rows prefixes d_in"] | None,
    of_squares: Float[Tensor, " prefixes"] | None,
) -> tuple[Float[Tensor, "rows prefixes d_in"], Float[Tensor, ""]]:
    """The gradient by the errors, as a matrix and a number to multiply it by.

    The loss may use the errors themselves, their squares, or both. From squares e^2 of a single
    prefix, whose gradient is s, comes 2 s e: the matrix is then `errors` as it is, the number 2 s.
    """
    one = errors.new_ones(())
    if of_squares is None:
        return (torch.zeros_like(errors) if of_errors is None else of_errors), one
    if of_errors is None and len(of_squares) == 1:
        return errors, 2 * of_squares[0]
    gradient = errors * (2 * of_squares.unsqueeze(1))
    return (gradient if of_errors is None else gradient + of_errors), one
