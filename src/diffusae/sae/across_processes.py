"""Numbers over all processes that train together; a single process takes its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Shard(NamedTuple):
    """The latents that an autoencoder holds: `count` of all `of`, from the latent `first` on."""

    first: int
    count: int
    of: int


def world_size() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def anywhere(flag: Bool[Tensor, ""]) -> bool:
    """Whether the flag is set in any process."""
    if world_size() > 1:
        flag = flag.to(torch.uint8)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag)


def least_of_all(value: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """The least value of any process."""
    if world_size() > 1:
        value = value.clone()
        dist.all_reduce(value, op=dist.ReduceOp.MIN)
    return value


def average(tensors: Iterable[Tensor]) -> None:
    """Replace every tensor by its mean over the processes."""
    if world_size() > 1:
        for tensor in tensors:
            tensor /= world_size()
            dist.all_reduce(tensor)


def total(part: Tensor) -> Tensor:
    """The sum of a tensor over the processes, put in its place."""
    if world_size() > 1:
        dist.all_reduce(part)
    return part


def greatest(part: Tensor) -> Tensor:
    """The largest values over the processes, put in the tensor's place."""
    if world_size() > 1:
        dist.all_reduce(part, op=dist.ReduceOp.MAX)
    return part


def gathered(part: Tensor, *, dim: int) -> Tensor:
    """The tensors of all processes, in the order of ranks; all have the same shape."""
    if world_size() == 1:
        return part
    every = [
        torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(world_size())
    ]
    dist.all_gather(every, part.contiguous())
    return torch.cat(every, dim=dim)


def largest_of_all(
    values: Float[Tensor, " n"], count: int
) -> tuple[Int[Tensor, " kept"], Float[Tensor, ""]]:
    """Which of this process' values are among the largest of all processes, and the least of these.

    The number of the largest is the sum of `count` over the processes. Of equal values, those of
    the first processes are taken first.
    """
    if world_size() == 1:
        kept = torch.topk(values, count, sorted=False)
        return kept.indices, kept.values.min()
    counts = values.new_tensor(count, dtype=torch.long)
    dist.all_reduce(counts)
    total = int(counts)
    mine = torch.full((total,), -torch.inf, device=values.device)
    candidates = torch.topk(values, min(total, len(values)), sorted=False).values
    mine[: len(candidates)] = candidates.float()
    every = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(every, mine)
    least = torch.topk(torch.cat(every), total, sorted=False).values.min()
    rank = dist.get_rank()
    spare = total - sum(int((others > least).sum()) for others in every)
    spare -= sum(int((others == least).sum()) for others in every[:rank])
    above, equal = (values > least).nonzero().squeeze(1), (values == least).nonzero().squeeze(1)
    return torch.cat([above, equal[: max(0, spare)]]), least.to(values.dtype)
