"""The search for the latents that a choosing sparsity keeps, in training.

It costs one dense product, the pre-activations, of which only the largest matter. So the product
may be computed in few bits, if the values of the candidates are then computed anew in float32. An
example with k = 1, where one candidate more is kept:

    float32     2.03  2.01  0.5      the largest is latent 0
    bfloat16    2.03  2.02  0.5      candidates 0 and 1: rounding could have swapped them
    anew        2.03  2.01           latent 0

On a CPU the same is done with a product in float32. Then it does not matter in which way the
product was rounded, and the fastest way computes it (`diffusae.sae.dense_product`). One of the ways
multiplies in 8 bits and proves that it misses none (`diffusae.sae.screening`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from diffusae.sae import screening
from diffusae.sae.dense_product import IN_8_BITS, WAYS, FastestWay, Way
from diffusae.sae.quantised import Quantised, product, quantised
from diffusae.sae.settings import SelectionPrecision
from diffusae.sae.sparse_ops import Entries, Kernels
from diffusae.sae.sparsity import Codes, TopK

BLOCK = WAYS[0].rows
"""Rows whose pre-activations are computed and searched together on a CPU: 5 MB of them at d_sae =
5120. Those that are still in the cache are searched faster.
"""


class Search:
    """Finds codes of vectors; keeps the memory of the pre-activations for the next ones."""

    def __init__(self) -> None:
        self._memory: Tensor | None = None
        self._ways = FastestWay(WAYS)
        self._ways_by_row = FastestWay((*WAYS, IN_8_BITS) if screening.available() else WAYS)

    def __call__(
        self,
        centred: Float[Tensor, "batch d_in"],
        W_enc: Float[Tensor, "d_sae d_in"],
        b_enc: Float[Tensor, " d_sae"] | None,
        sparsity: TopK,
        *,
        precision: SelectionPrecision,
        kernels: Kernels,
    ) -> Codes:
        """The codes that `sparsity` chooses by W_enc centred + b_enc.

        Args:
            centred: the vectors less b, in scaled units.
            b_enc: None: there is none.
            precision: in training; without training it is float32.
            kernels: what computes the candidates' values anew.
        """
        if not sparsity.training or (precision == "float32" and W_enc.device.type != "cpu"):
            return self._sought(centred, W_enc, b_enc, sparsity, sparsity)
        if precision != "float32":
            weights = _in_few_bits(W_enc, precision)
            codes = self._sought(centred, weights, b_enc, sparsity, sparsity.candidates)
            return _chosen(codes, centred, W_enc, b_enc, sparsity, kernels)
        # A process may have no part of a short last batch.
        in_8_bits = sparsity.by_row and W_enc.dtype == torch.float32 and len(centred) > 0
        with (self._ways_by_row if in_8_bits else self._ways).timed() as way:
            if way is IN_8_BITS:
                screen = screening.Screen(W_enc)
                parts = centred.split(screening.ROWS_OF_VALUES)
                codes = _joined(
                    [_screened(rows, screen, W_enc, b_enc, sparsity, kernels) for rows in parts]
                )
            else:
                codes = self._sought(centred, W_enc, b_enc, sparsity, sparsity.candidates, way)
                codes = _chosen(codes, centred, W_enc, b_enc, sparsity, kernels)
        # Codes come in an order that may follow from the last bits of the product.
        indices, order = codes.indices.sort(dim=1)
        return Codes(codes.values.gather(1, order), indices)

    def _sought(
        self,
        centred: Float[Tensor, "batch d_in"],
        weights: Tensor | Quantised,
        b_enc: Tensor | None,
        sparsity: TopK,
        choose: Callable[[Tensor], Codes],
        way: Way = WAYS[0],
    ) -> Codes:
        """What `choose` finds among the pre-activations, block by block where rows are searched by
        themselves.
        """
        in_blocks = sparsity.by_row and centred.device.type == "cpu"
        rows = centred.split(way.rows if in_blocks else max(1, len(centred)))
        codes = [choose(self._pre_activations(block, weights, b_enc, way)) for block in rows]
        return _joined(codes)

    def _pre_activations(
        self,
        centred: Float[Tensor, "rows d_in"],
        weights: Tensor | Quantised,
        b_enc: Tensor | None,
        way: Way,
    ) -> Float[Tensor, "rows d_sae"]:
        """The product in the precision of the weights."""
        if isinstance(weights, Quantised):
            shape = (len(centred), len(weights.integers))
            memory = self._reused(shape, torch.int32, centred.device)
            pre_activations = product(quantised(centred), weights, memory=memory)
            if b_enc is not None:
                pre_activations.add_(b_enc)
            # bfloat16 is searched in half the time, and rounds less than 8 bits did.
            return pre_activations.to(torch.bfloat16)
        dtype = weights.dtype
        memory = self._reused((len(centred), len(weights)), dtype, centred.device)
        way.multiply(centred.to(dtype), weights, memory)
        return memory if b_enc is None else memory.add_(b_enc.to(dtype))

    def _reused(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Memory for a product: that of the last one where it fits."""
        memory = self._memory
        if memory is None or (memory.shape, memory.dtype, memory.device) != (shape, dtype, device):
            memory = self._memory = torch.empty(shape, dtype=dtype, device=device)
        return memory


def _screened(
    centred: Float[Tensor, "rows d_in"],
    screen: screening.Screen,
    W_enc: Float[Tensor, "d_sae d_in"],
    b_enc: Tensor | None,
    sparsity: TopK,
    kernels: Kernels,
) -> Codes:
    """The codes by upper bounds. In rows that a few candidates do not settle, all latents are
    candidates whose bounds reach as far as the k-th largest of these few.
    """
    bounds, candidates = [], []
    for rows in centred.split(screening.ROWS):
        bounds.append(screen.upper_bounds(rows, b_enc))
        candidates.append(sparsity.candidates(bounds[-1], spare=screening.SPARE))
    few = _joined(candidates)
    codes = _chosen(few, centred, W_enc, b_enc, sparsity, kernels, by_column=True)
    kth = codes.values.amin(1)
    settled = screening.settled(kth, few.values.amin(1))
    if few.indices.shape[1] == len(W_enc) or settled.all():
        return codes
    rest = ~settled
    of_rest = [part[here] for part, here in zip(bounds, rest.split(screening.ROWS), strict=True)]
    may = screening.may_reach(kth[rest], torch.cat(of_rest))
    latents = torch.arange(len(W_enc)).expand_as(may)
    entries = Entries.where(may, latents, d_sae=len(W_enc), kernels=kernels)
    values = _values(entries, centred[rest], W_enc, b_enc)
    dense = values.new_full(may.shape, -torch.inf).masked_scatter_(may, values)
    codes.values[rest], codes.indices[rest] = sparsity(dense)
    return codes


def _joined(blocks: Sequence[Codes]) -> Codes:
    if len(blocks) == 1:
        return blocks[0]
    return Codes(*(torch.cat(parts) for parts in zip(*blocks, strict=True)))


def _chosen(
    candidates: Codes,
    centred: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_sae d_in"],
    b_enc: Tensor | None,
    sparsity: TopK,
    kernels: Kernels,
    *,
    by_column: bool = False,
) -> Codes:
    """What `sparsity` chooses among the candidates, by their values in full precision."""
    entries, _ = sparsity.entries(candidates, d_sae=len(W_enc), kernels=kernels)
    values = _values(entries, centred, W_enc, b_enc, by_column=by_column)
    return sparsity.choose(sparsity.revalued(candidates, values))


def _values(
    entries: Entries,
    centred: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_sae d_in"],
    b_enc: Tensor | None,
    *,
    by_column: bool = False,
) -> Float[Tensor, " n"]:
    """Pre-activations of the entries in full precision."""
    values = (entries.inner_by_column if by_column else entries.inner)(centred, W_enc)
    return values if b_enc is None else values.add_(b_enc[entries.columns])


def _in_few_bits(W_enc: Tensor, precision: SelectionPrecision) -> Tensor | Quantised:
    if precision == "int8" and W_enc.device.type == "cpu":
        return quantised(W_enc)
    return W_enc.to(torch.bfloat16)
