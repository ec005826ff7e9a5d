"""Batches gathered from where their vectors lie in mapped shards: each vector goes through memory
once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffusae.activations.order import EpochOrder

BLOCK = 256
"""Rows gathered as they are stored before they are converted: at d_in = 1280 0.6 MB of float16,
which stay in a core's cache."""

Table = Float[Tensor, "slots d_in"]
"""A shard as every stretch of d_in numbers in it that could be a vector; the stretches overlap."""

Place = Callable[[int], tuple[Table, int, int]]
"""Where image i of the epoch's sequence lies: a table, the slot of its first vector, and slots from
one to the next."""


@dataclass(frozen=True)
class ScatteredRows:
    """The vectors of a batch, each as its table and the slot in it."""

    tables: list[Table]
    table: Int[Tensor, " batch"]
    slot: Int[Tensor, " batch"]

    def __len__(self) -> int:
        return len(self.slot)

    def copy_to(self, out: Float[Tensor, "batch d_in"]) -> None:
        """Write the vectors to `out`."""
        if not len(self):  # a process may get no part of a short last batch
            return
        gathered = torch.empty(BLOCK, out.shape[1], dtype=self.tables[0].dtype)
        blocks = (each.split(BLOCK) for each in (out, self.table, self.slot))
        for rows, table, slot in zip(*blocks, strict=True):
            block = gathered[: len(rows)]
            first, last = int(table.min()), int(table.max())
            if first == last:
                torch.index_select(self.tables[first], 0, slot, out=block)
            else:
                for number in range(first, last + 1):
                    here = (table == number).nonzero().squeeze(1)
                    block.index_copy_(0, here, self.tables[number].index_select(0, slot[here]))
            rows.copy_(block)


def scattered_batches(order: EpochOrder, chunk: int, place: Place) -> list[ScatteredRows]:
    """This rank's batches of one chunk; `place` is asked in rising order within a lane."""
    sizes = order.sizes(chunk)
    table, slot = (np.empty(sum(sizes), dtype=np.int64) for _ in range(2))
    tables: list[Table] = []
    numbers: dict[int, int] = {}
    for piece in order.pieces(chunk):
        found, first, step = place(piece.image)
        number = numbers.setdefault(id(found), len(tables))
        if number == len(tables):
            tables.append(found)
        rows = piece.rows.numpy()
        table[rows] = number
        slot[rows] = np.arange(first + piece.start * step, first + piece.stop * step, step)
    batches = zip(*(torch.from_numpy(each).split(sizes) for each in (table, slot)), strict=True)
    return [ScatteredRows(tables, *batch) for batch in batches]
