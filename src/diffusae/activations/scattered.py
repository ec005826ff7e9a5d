"""Batches whose vectors are gathered directly from mapped shards, so that they are copied once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffusae.activations.order import EpochOrder

BLOCK = 256
"""Rows that are gathered before they are converted. At d_in = 1280 these are 0.6 MB of float16,
which fit a core's cache."""

Table = Float[Tensor, "slots d_in"]
"""Every stretch of d_in numbers of a shard that may be a vector (`MappedShard.table`)."""

Place = Callable[[int], tuple[Table, Int[np.ndarray, " slots"]]]
"""Vector v of the epoch -> its shard's table, and the slots of v and of the vectors after it in the
shard."""


@dataclass(frozen=True)
class ScatteredRows:
    """The places of a batch's vectors: the number of the table, and the slot in it."""

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
        blocks = (column.split(BLOCK) for column in (out, self.table, self.slot))
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
    """This rank's batches of one chunk. Within a lane, `place` is called in rising order.

    Example: the vectors 2 to 4 of a shard whose first vector is slot 208, step 1, put slots 210,
    211, 212 into their rows.
    """
    sizes = order.sizes(chunk)
    table, slot = (np.empty(sum(sizes), dtype=np.int64) for _ in range(2))
    tables: list[Table] = []
    numbers: dict[int, int] = {}
    for lane, goes_to in order.lanes(chunk):
        first = lane.start
        while first < lane.stop:
            source, slots = place(first)
            number = numbers.setdefault(id(source), len(tables))
            if number == len(tables):
                tables.append(source)
            count = min(len(slots), lane.stop - first)
            rows = goes_to[first - lane.start :][:count].numpy()
            table[rows] = number
            slot[rows] = slots[:count]
            first += count
    batches = zip(*(torch.from_numpy(column).split(sizes) for column in (table, slot)), strict=True)
    return [ScatteredRows(tables, *batch) for batch in batches]
