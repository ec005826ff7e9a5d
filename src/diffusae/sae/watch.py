"""Numbers of a training on a device, read some steps later: nobody waits for the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffusae.errors import UserError
from diffusae.sae.across_processes import world_size

if TYPE_CHECKING:
    from diffusae.sae.step import Member

EVERY = 50
"""Steps whose losses are read together."""


class _Reading(NamedTuple):
    """Copies to the host that are under way."""

    losses: Float[Tensor, "steps members"]
    ages: Int[Tensor, " members"]
    first: int
    """The step of the first losses."""
    arrived: torch.cuda.Event | None


class Watch:
    """Sees to it that all losses are finite, and knows whether a latent may be dead.

    A latent is no older than the oldest one that was last read, plus the vectors since then. While
    that is too young, no latent can be dead, and AuxK can be left out without another result.

    Args:
        members: the trainings by their names.
        step: the number of the next step.
    """

    def __init__(self, members: Mapping[str, Member], step: int) -> None:
        self.members, self.step = members, step
        self._modules = [member.module for member in members.values()]
        self._losses = self._modules[0].total_variance.new_zeros(EVERY, len(members))
        self._reading: _Reading | None = None
        self._oldest = self._ages().tolist()
        self._since = [0] * len(members)
        self._since_reading = [0] * len(members)

    def may_be_dead(self) -> bool:
        """Whether any latent of any member may have to be revived in the next step."""
        if world_size() > 1:  # the vectors of the other processes are not counted here
            return any(module.revives for module in self._modules)
        bounds = zip(self._modules, self._oldest, self._since, strict=True)
        return any(
            module.revives and oldest + since >= module.dead_after_vectors
            for module, oldest, since in bounds
        )

    def saw(self, losses: Float[Tensor, " members"], vectors: Sequence[int]) -> None:
        """Take a step into account, with so many vectors of every member.

        Raises:
            UserError: a loss of an earlier step was not finite.
        """
        self._losses[self.step % EVERY].copy_(losses.detach())
        self.step += 1
        for counts in (self._since, self._since_reading):
            counts[:] = [n + more for n, more in zip(counts, vectors, strict=True)]
        arrived = self._reading is not None and _has_arrived(self._reading)
        if arrived or self.step % EVERY == 0:
            self._finish()
        if self.step % EVERY == 0:
            self._begin()

    def check(self) -> None:
        """Raise `UserError` where any loss so far was not finite. Waits for the device."""
        self._finish()
        count = self.step % EVERY
        self._refuse_non_finite(self._losses[:count].cpu(), self.step - count)

    def _begin(self) -> None:
        losses, ages = _to_host(self._losses), _to_host(self._ages())
        arrived = None
        if self._losses.is_cuda:
            arrived = torch.cuda.Event()
            arrived.record()
        self._reading = _Reading(losses, ages, self.step - EVERY, arrived)
        self._since_reading = [0] * len(self.members)

    def _finish(self) -> None:
        if self._reading is None:
            return
        if self._reading.arrived is not None:
            self._reading.arrived.synchronize()
        self._oldest, self._since = self._reading.ages.tolist(), list(self._since_reading)
        self._refuse_non_finite(self._reading.losses, self._reading.first)
        self._reading = None

    def _ages(self) -> Int[Tensor, " members"]:
        return torch.stack([module.vectors_since_fired.max() for module in self._modules])

    def _refuse_non_finite(self, losses: Float[Tensor, "steps members"], first: int) -> None:
        for row in (~torch.isfinite(losses)).nonzero()[:1].tolist():
            step, member = row
            with named(list(self.members)[member]):
                raise self._modules[member].not_finite(float(losses[step, member]), first + step)


def _to_host(tensor: Tensor) -> Tensor:
    """A copy on the host, whose content arrives later."""
    if not tensor.is_cuda:
        return tensor.clone()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def _has_arrived(reading: _Reading) -> bool:
    return reading.arrived is None or reading.arrived.query()


@contextmanager
def named(member: str) -> Iterator[None]:
    """Put a member's name, where it has one, before an error."""
    try:
        yield
    except UserError as error:
        if not member:
            raise
        raise UserError(f"{member}: {error}") from error
