"""The k largest of every row, faster than `torch.topk` where rows are long and k is small.

A row is cut into groups. An entry among the k largest lies in one of the k groups with the largest
maxima, so only these groups are searched; which groups these are is found in the same way. The
maxima are a vectorised pass; what is left to sort is small.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

GROUP = 8
"""Entries of a group: 5120 columns make 640 groups and 80 groups of groups; at k = 20, 160 and 160
are searched after.
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
        # Read as integers, floating-point numbers from 0 on keep their order, and those are
        # compared four times faster.
        integers = values.view(torch.int16)
        if torch.get_num_threads() <= FEW_THREADS:
            columns = _columns_of_largest(integers, k).long()
            return values.gather(-1, columns), columns
        found, indices = largest(integers, k)
        return found.view(torch.bfloat16), indices
    groups = _groups(values.shape[-1], k)
    # GPUs have a topk of their own.
    if values.device.type != "cpu" or groups is None:
        return torch.topk(values, k, dim=-1, sorted=False)
    columns = _members(largest(_maxima(values, groups), k)[1], groups)
    found = torch.topk(values.gather(-1, columns), k, dim=-1, sorted=False)
    return found.values, columns.gather(-1, found.indices)


def _columns_of_largest(values: Int[Tensor, "... d"], k: int) -> Int[Tensor, "... k"]:
    """Where the k largest of 16-bit integers are, sought as in `largest`."""
    d = values.shape[-1]
    groups = _groups(d, k)
    if groups is None:
        columns = torch.arange(d, dtype=torch.int32).expand_as(values)
    else:
        columns = _members(_columns_of_largest(_maxima(values, groups), k), groups)
        values = values.gather(-1, columns.long())
    # A number with its column behind it is one integer, which NumPy partitions with vector
    # instructions.
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
    first = (
        values.shape[-1] - k
    )  # NumPy partitions with vector instructions, and torch.topk does not
    return torch.from_numpy(np.partition(values.numpy(), first, axis=-1)[..., first:])
