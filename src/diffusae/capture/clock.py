"""The timestep that a denoiser is at, read from its own argument."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from diffusae.errors import UserError


class Clock:
    """`now` is the scheduler's timestep of the running (or last) denoiser call; `visited` holds them all."""

    def __init__(self) -> None:
        self.now: float | None = None
        self.visited: list[float] = []

    def strike(self, timestep: float) -> None:
        """A denoiser call begins at `timestep`."""
        self.now = timestep
        self.visited.append(timestep)


@contextmanager
def running_clock(denoiser: nn.Module) -> Iterator[Clock]:
    """A `Clock` that follows every call of `denoiser` while the context lasts.

    It reads the `timestep` argument, so that nothing has to be counted or reset between calls.
    """
    parameters = list(inspect.signature(type(denoiser).forward).parameters)
    if "timestep" not in parameters:
        raise UserError(
            f"{type(denoiser).__name__} takes no `timestep`; it is not a denoiser that can be hooked"
        )
    place = parameters.index("timestep") - 1  # counted without self
    clock = Clock()

    def read(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        clock.strike(_scalar(kwargs["timestep"] if "timestep" in kwargs else args[place]))

    handle = denoiser.register_forward_pre_hook(read, with_kwargs=True)
    try:
        yield clock
    finally:
        handle.remove()


def _scalar(timestep: Tensor | float) -> float:
    if not isinstance(timestep, Tensor):
        return timestep
    values = torch.unique(timestep)
    if len(values) != 1:
        raise UserError(f"the batch mixes {len(values)} timesteps; a hooked call needs one for all its rows")
    return values.item()
