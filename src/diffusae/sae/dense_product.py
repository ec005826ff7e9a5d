"""The dense float32 product of the search on a CPU, in the way that is fastest on this machine.

On some processors NumPy's BLAS takes half the time of torch's, and the number of rows that it gets
at a time matters as well. So the first products of a training go through all ways in turns and are
timed; from then on the fastest way computes. Every product is used, so choosing costs next to
nothing.

Ways differ in rounding, and the choice between them is a matter of time. So nothing may follow from
the last bits of a product: the search takes some more candidates than it needs from it, and
computes their values anew (`diffusae.sae.search`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

ROUNDS = 3
"""Batches that every way computes before the fastest is chosen."""


class Way(NamedTuple):
    """How a product is computed."""

    name: str
    multiply: Callable[[Tensor, Tensor, Tensor], object]
    """Writes left @ right^T into the third tensor."""
    rows: int
    """So many rows of `left` at a time."""


def _by_torch(left: Tensor, right: Tensor, result: Tensor) -> None:
    torch.mm(left, right.T, out=result)


def _by_numpy(left: Tensor, right: Tensor, result: Tensor) -> None:
    with _as_many_threads_as_torch():
        np.matmul(left.numpy(), right.numpy().T, out=result.numpy())


def _as_many_threads_as_torch() -> AbstractContextManager[object]:
    """For NumPy's products."""
    threads = torch.get_num_threads()
    blas = _blas_of_numpy()
    if all(library.num_threads == threads for library in blas.lib_controllers):
        return nullcontext()
    return blas.limit(limits=threads)


@cache
def _blas_of_numpy() -> ThreadpoolController:
    return ThreadpoolController().select(internal_api="openblas")


WAYS = tuple(
    Way(f"{library}, {rows} rows", multiply, rows)
    for library, multiply in (("torch", _by_torch), ("numpy", _by_numpy))
    for rows in (256, 1024)
)

IN_8_BITS = Way("8 bits, proved", _by_torch, WAYS[0].rows)
"""Multiplies in 8 bits (`diffusae.sae.screening`)."""


class FastestWay:
    """Chooses among `ways` by the time that batches take.

    The first batches take the ways in turns: with ways A and B and two rounds A, B, A, B. The way
    with the shortest batch then stays. The shortest, since a machine that is busy for a moment says
    nothing against a way.
    """

    def __init__(
        self, ways: Sequence[Way], *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._seconds: dict[Way, list[float]] = {way: [] for way in ways}
        self._clock = clock

    @contextmanager
    def timed(self) -> Iterator[Way]:
        """The way of one batch, which is computed inside."""
        way = min(self._seconds, key=lambda way: len(self._seconds[way]))
        if len(self._seconds[way]) == ROUNDS:
            yield min(self._seconds, key=lambda way: min(self._seconds[way]))
            return
        start = self._clock()
        yield way
        self._seconds[way].append(self._clock() - start)
