"""The k largest of every row, faster than `torch.topk` where rows are long and k is small.

1. A row of d entries is cut into d / 8 groups of 8, and the largest entry of every group is taken.
2. The k groups with the largest maxima are sought. They hold the k largest entries of the row: a
   group without one of these maxima has nothing that is larger than k others.
3. Only the 8 k entries of these groups are searched.

Step 2 is the same task on a row that is 8 times shorter, so it is done in the same way. Step 1 runs
with vector instructions, and what is left to sort is small.

The largest entry (k = 1) of a row of 16, in 2 groups, of the even columns and of the odd ones:

>>> row = torch.tensor([[1., 5, 2, 4, 0, 9, 3, 6, 1, 7, 2, 0, 8, 1, 0, 2]])
>>> _maxima(row, 2)
tensor([[8., 9.]])
>>> _members(torch.tensor([[1]]), 2)  # group 1 has the largest maximum: its columns
tensor([[ 1,  3,  5,  7,  9, 11, 13, 15]])
>>> largest(row, 1)  # the largest entry in these columns, and where it is in the row
(tensor([[9.]]), tensor([[5]]))
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

GROUP = 8
"""Entries of a group. A row of 5120 makes 640 groups, and 80 groups of groups. At k = 20, the 80
are searched, then the 160 members of the 20 best, then 160 entries of the row.
"""

SHORT = 1024
"""Longer rows are faster searched by groups."""

FEW_THREADS = 2
"""NumPy's partition is faster than torch's topk, but takes one thread only."""


def largest(
    values: Float[Tensor, "... d"], k: int
) -> tuple[Float[Tensor, "... k"], Int[Tensor, "... k"]]:
    """Values and indices of the k largest entries of every row, in no particular order; 1 <= k <=
    d.

    Which one of several equal entries is taken is unspecified, but the same at every call. In
    bfloat16, entries below 0 count as equal: a row with fewer than k others gets any of them.
    """
    if values.dtype == torch.bfloat16 and values.device.type == "cpu":
        # The bits of floating-point numbers from 0 on, read as integers, have the same order, and
        # integers are compared four times faster.
        integers = values.view(torch.int16)
        if torch.get_num_threads() <= FEW_THREADS:
            columns = _columns_of_largest(integers, k).long()
            return values.gather(-1, columns), columns
        best_values, indices = largest(integers, k)
        return best_values.view(torch.bfloat16), indices
    groups = _groups(values.shape[-1], k)
    if groups is None:
        best_values = torch.topk(values, k, dim=-1, sorted=False)
        return best_values.values, best_values.indices
    _, best = largest(_maxima(values, groups), k)
    columns = _members(best, groups)
    best_values = torch.topk(values.gather(-1, columns), k, dim=-1, sorted=False)
    # Places among the members -> columns of the row.
    return best_values.values, columns.gather(-1, best_values.indices)


def _columns_of_largest(values: Int[Tensor, "... d"], k: int) -> Int[Tensor, "... k"]:
    """Where the k largest of 16-bit integers are, sought as in `largest`."""
    d = values.shape[-1]
    groups = _groups(d, k)
    if groups is None:
        columns = torch.arange(d, dtype=torch.int32).expand_as(values)
    else:
        columns = _members(_columns_of_largest(_maxima(values, groups), k), groups)
        values = values.gather(-1, columns.long())
    # NumPy partitions integers with vector instructions, but gives no places. So a number and its
    # column become one integer: number 3 in column 5 is the key 3 * shift + 5. The keys have the
    # order of the numbers, and the rest of key / shift is the column.
    kind, shift = (torch.int32, 2**15) if d <= 2**15 else (torch.int64, 2**40)
    keys = values.to(kind) * shift + columns
    first = keys.shape[-1] - k
    largest_keys = torch.from_numpy(np.partition(keys.numpy(), first, axis=-1)[..., first:])
    return largest_keys & (shift - 1)


def _groups(d: int, k: int) -> int | None:
    """How many groups a row of d has; None where k groups would be half of the row, and save
    nothing.
    """
    groups = d // GROUP
    return None if d % GROUP or groups < 2 * k else groups


def _maxima(values: Float[Tensor, "... d"], groups: int) -> Float[Tensor, "... groups"]:
    # Group g holds the columns g, g + groups, ...: so the maxima are taken over contiguous
    # stretches.
    return values.unflatten(-1, (GROUP, groups)).amax(dim=-2)


def _members(chosen: Int[Tensor, "... k"], groups: int) -> Int[Tensor, "... members"]:
    """The columns of the chosen groups."""
    steps = groups * torch.arange(GROUP, dtype=chosen.dtype, device=chosen.device)
    return (chosen.unsqueeze(-2) + steps.unsqueeze(-1)).flatten(-2)


def largest_values(values: Float[Tensor, "... d"], k: int) -> Float[Tensor, "... k"]:
    """The values of `largest` without their places: in half the time on a CPU where rows are
    short.
    """
    if values.device.type != "cpu" or values.dtype != torch.float32 or values.shape[-1] > SHORT:
        return largest(values, k)[0]
    # NumPy partitions with vector instructions, and torch.topk does not.
    first = values.shape[-1] - k
    return torch.from_numpy(np.partition(values.numpy(), first, axis=-1)[..., first:])
