"""Where a running denoiser call is: its timestep, its guidance branches and its grid, read from the call itself."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from diffusae.backbone.adapters import Adapter, adapter_of
from diffusae.backbone.branches import ToldBranches, told_branches
from diffusae.errors import UserError


class Clock:
    """`now` is the scheduler's timestep of the running (or last) denoiser call; `visited` holds them all."""

    def __init__(self, adapter: Adapter, branches: ToldBranches) -> None:
        self.now: float | None = None
        self.visited: list[float] = []
        self._adapter = adapter
        self.branches = branches
        """Called, it gives the guidance branches along the running call's batch."""
        self._given: dict[str, Any] = {}
        self._size: tuple[int, int] | None = None

    def strike(self, timestep: float, given: dict[str, Any]) -> None:
        """A denoiser call with these arguments begins at `timestep`."""
        self.now = timestep
        self.visited.append(timestep)
        self._given, self._size = given, None

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the running call's finest grid."""
        if self._size is None:  # read once a call: an accelerator may have to be waited for
            self._size = self._adapter.size(self._given)
        return self._size


@contextmanager
def running_clock(pipe: Any) -> Iterator[Clock]:
    """A `Clock` that follows every call of the pipeline's denoiser while the context lasts.

    It reads the call's own arguments, so that nothing has to be counted or reset between calls.
    """
    adapter = adapter_of(pipe)
    denoiser: nn.Module = adapter.denoiser
    if "timestep" not in inspect.signature(type(denoiser).forward).parameters:
        raise UserError(
            f"{type(denoiser).__name__} takes no `timestep`; it is not a denoiser that can be hooked"
        )
    with told_branches(pipe) as branches:
        clock = Clock(adapter, branches)

        def read(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = adapter.given(args, kwargs)
            clock.strike(_scalar(adapter.timestep(pipe, given)), given)

        handle = denoiser.register_forward_pre_hook(read, with_kwargs=True)
        try:
            yield clock
        finally:
            handle.remove()


def _scalar(timestep: Tensor | float) -> float:
    if not isinstance(timestep, Tensor):
        return timestep
    if timestep.numel() == 1:
        return timestep.item()
    values = torch.unique(timestep)
    if len(values) != 1:
        raise UserError(f"the batch mixes {len(values)} timesteps; a hooked call needs one for all its rows")
    return values.item()
