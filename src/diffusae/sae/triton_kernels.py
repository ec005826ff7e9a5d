"""The sums and inner products over entries of sparse matrices as Triton kernels, for GPUs.

All of them read rows of a matrix that are picked from all over it: what counts is how many such
reads are under way at once. A program takes `ENTRIES` rows by `COLUMNS` columns at a time and adds
tile to tile; only its last tile is summed across threads. Programs of the same columns follow one
another, so that what they pick from is a strip of the matrix that stays in the cache. Sums have a
fixed order, without atomic additions: the same input gives the same bits.

The sizes follow from that reasoning and from what compilers say (no spilled registers on sm_80 and
sm_90); they have not been tuned on a GPU.
"""

# pyright: reportMissingImports=false, reportIndexIssue=false
# Triton need not be installed.

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from diffusae.sae.kernels import check_device, interpreted
from diffusae.sae.sparse_ops import Kernels

ENTRIES = 8
COLUMNS = 256
"""A power of two, as Triton asks: 1280 columns are five of them with nothing left over."""
WARPS = 4
CHUNK = 64
"""Entries that a long sum is split by. A latent that fires on 4096 vectors becomes 64 programs for
every strip.
"""


@triton.jit
def _tile_sum(
    dense, rows, weights, begin, end, columns, d, ACC: tl.constexpr, ENTRIES: tl.constexpr
):
    """The sum over i in [begin, end) of weights[i] * dense[rows[i], columns]; without rows it is
    dense[i, columns].
    """
    tile = tl.zeros((ENTRIES, columns.shape[0]), ACC)
    for first in range(begin, end, ENTRIES):
        i = first + tl.arange(0, ENTRIES)
        there = i < end
        mask = there[:, None] & (columns < d)[None, :]
        if rows is None:
            tile += tl.load(dense + i[:, None] * d + columns[None, :], mask=mask, other=0).to(ACC)
        else:
            row = tl.load(rows + i, mask=there, other=0)
            weight = tl.load(weights + i, mask=there, other=0).to(ACC)
            picked = tl.load(dense + row[:, None] * d + columns[None, :], mask=mask, other=0)
            tile += weight[:, None] * picked.to(ACC)
    return tl.sum(tile, axis=0)


@triton.jit
def sum_kernel(
    dense, rows, weights, starts, out, n_sums, n, d,
    ACC: tl.constexpr, ENTRIES: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """out[i] of the entries from starts[i] to the next start; with a CHUNK, no further than to its
    next multiple.
    """
    i = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    begin = tl.load(starts + i)
    end = tl.load(starts + i + 1, mask=i + 1 < n_sums, other=n)
    if CHUNK is not None:
        end = tl.minimum(end, (begin // CHUNK + 1) * CHUNK)
    total = _tile_sum(dense, rows, weights, begin, end, columns, d, ACC, ENTRIES)
    tl.store(out + i * d + columns, total, mask=columns < d)


@triton.jit
def later_chunks_kernel(
    dense, rows, weights, starts, owners, partial, n_sums, n, d,
    ACC: tl.constexpr, ENTRIES: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """partial[c]: what chunk c holds of the sum that reaches into it, whose number is owners[c]."""
    chunk = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    begin = chunk * CHUNK
    owner = tl.load(owners + chunk)
    if tl.load(starts + owner) < begin:
        end = tl.load(starts + owner + 1, mask=owner + 1 < n_sums, other=n)
        end = tl.minimum(end, begin + CHUNK)
        total = _tile_sum(dense, rows, weights, begin, end, columns, d, ACC, ENTRIES)
        tl.store(partial + chunk * d + columns, total, mask=columns < d)


@triton.jit
def add_later_chunks_kernel(
    partial, starts, out, n_sums, n, d,
    ACC: tl.constexpr, ENTRIES: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """out[i] += the partial sums of the chunks that sum i reaches into."""
    i = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    later = tl.load(starts + i) // CHUNK + 1
    end = tl.load(starts + i + 1, mask=i + 1 < n_sums, other=n)
    if end > later * CHUNK:
        total = _tile_sum(
            partial, None, None, later, (end - 1) // CHUNK + 1, columns, d, ACC, ENTRIES
        )
        place = out + i * d + columns
        tl.store(place, tl.load(place, mask=columns < d) + total, mask=columns < d)


@triton.jit
def inner_kernel(
    left, right, rows, columns, out, n, d,
    ACC: tl.constexpr, ENTRIES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """out[i] = left[rows[i]] . right[columns[i]], for ENTRIES entries."""
    i = tl.program_id(0).to(tl.int64) * ENTRIES + tl.arange(0, ENTRIES)
    there = i < n
    row = tl.load(rows + i, mask=there, other=0)
    column = tl.load(columns + i, mask=there, other=0)
    tile = tl.zeros((ENTRIES, COLUMNS), ACC)
    for first in range(0, d, COLUMNS):
        j = first + tl.arange(0, COLUMNS)
        mask = there[:, None] & (j < d)[None, :]
        of_left = tl.load(left + row[:, None] * d + j[None, :], mask=mask, other=0)
        of_right = tl.load(right + column[:, None] * d + j[None, :], mask=mask, other=0)
        tile += of_left.to(ACC) * of_right.to(ACC)
    tl.store(out + i, tl.sum(tile, axis=1), mask=there)


def sums_of_rows(
    dense: Float[Tensor, "n d"],
    rows: Int[Tensor, " entries"],
    starts: Int[Tensor, " sums"],
    weights: Float[Tensor, " entries"],
    *,
    uneven: bool = False,
    memory: Float[Tensor, "sums d"] | None = None,
) -> Float[Tensor, "sums d"]:
    """`sparse_ops.sums_of_rows`, accumulated in float32 at the least; `UserError` where no GPU
    holds the tensors. New memory costs a GPU nothing, so none is used again.
    """
    check_device("triton", dense.device.type)
    dense, n, d = dense.contiguous(), len(rows), dense.shape[1]
    sizes = _sizes(dense)
    out = dense.new_empty((len(starts), d), dtype=_accumulator(dense))
    strips = triton.cdiv(d, sizes["COLUMNS"])
    with torch.cuda.device_of(dense):
        if len(starts):
            chunk = CHUNK if uneven else None
            sum_kernel[len(starts), strips](
                dense, rows, weights, starts, out, len(starts), n, d, CHUNK=chunk, **sizes
            )
        if uneven and n > CHUNK:
            begins = torch.arange(0, n, CHUNK, device=starts.device)
            owners = torch.searchsorted(starts, begins, right=True) - 1
            partial = torch.empty(len(begins), d, dtype=out.dtype, device=out.device)
            later_chunks_kernel[len(begins), strips](
                dense,
                rows,
                weights,
                starts,
                owners,
                partial,
                len(starts),
                n,
                d,
                CHUNK=CHUNK,
                **sizes,
            )
            add_later_chunks_kernel[len(starts), strips](
                partial, starts, out, len(starts), n, d, CHUNK=CHUNK, **sizes
            )
    return out.to(dense.dtype)


def inner_products(
    left: Float[Tensor, "rows d"],
    right: Float[Tensor, "columns d"],
    rows: Int[Tensor, " n"],
    columns: Int[Tensor, " n"],
    starts: Int[Tensor, " rows"],
) -> Float[Tensor, " n"]:
    """`sparse_ops.inner_products`, accumulated in float32 at the least; `UserError` where no GPU
    holds the tensors.
    """
    check_device("triton", left.device.type)
    left, right, n = left.contiguous(), right.contiguous(), len(rows)
    out = left.new_empty(n)
    if n:
        with torch.cuda.device_of(left):
            inner_kernel[(triton.cdiv(n, ENTRIES),)](
                left, right, rows, columns, out, n, left.shape[1], **_sizes(left)
            )
    return out


KERNELS = Kernels(sums_of_rows, inner_products)


def _accumulator(dense: Tensor) -> torch.dtype:
    return torch.float64 if dense.dtype == torch.float64 else torch.float32


def _sizes(dense: Tensor) -> dict[str, Any]:
    """What the kernels are compiled for."""
    return {
        "ACC": tl.float64 if dense.dtype == torch.float64 else tl.float32,
        "ENTRIES": ENTRIES,
        "COLUMNS": min(COLUMNS, triton.next_power_of_2(dense.shape[1])),
        **({} if interpreted() else {"num_warps": WARPS}),
    }
