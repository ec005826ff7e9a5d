"""What was recorded of which call: every block, timestep, branch and picture that was asked for,
once."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor

from diffusae.backbone.calls import Call
from diffusae.capture.clock import Clock
from diffusae.errors import UserError

Key = tuple[str, float, str]
"""(block, the scheduler's timestep, conditioning)"""


class Account:
    """Of one context of recording.

    In a loop of the caller's own over the denoiser every call counts as further pictures: nothing
    tells a new loop from a timestep that comes twice.

    Args:
        blocks, timesteps, conditionings: what is to be recorded of each call of the pipeline.
    """

    def __init__(
        self,
        pipe: Any,
        blocks: Collection[str],
        timesteps: Collection[float],
        conditionings: Collection[str],
    ) -> None:
        self._pipe = pipe
        self._wanted = [
            (block, float(t), c) for t in timesteps for block in blocks for c in conditionings
        ]
        self._recorded: dict[Call | None, set[Key]] = {}

    def enter(self, clock: Clock, block: str, conditioning: str) -> int:
        """This is about to be recorded of the running call. Returns the call's number: its pictures
        come in that order.

        Raises:
            UserError: it was recorded of that call before: its scheduler comes to a timestep twice.
        """
        call, timestep = clock.branches.call, clock.now
        assert timestep is not None
        recorded = self._recorded.setdefault(call, set())
        key = (block, float(timestep), conditioning)
        if key in recorded and call is not None:
            raise UserError(
                f"{block} ran 2 times at timestep {timestep:g}: this scheduler"
                f" ({type(self._pipe.scheduler).__name__}) calls the denoiser more often than once"
                " a step; use DDIM"
            )
        recorded.add(key)
        return list(self._recorded).index(call)

    def close(self) -> None:
        """`UserError` for a call of which only a part was recorded, such as one that was
        stopped."""
        first = 0
        for call, recorded in self._recorded.items():
            if call is None:
                continue
            pictures = call.pictures or 1
            for key in self._wanted:
                if key not in recorded:
                    block, timestep, conditioning = key
                    raise UserError(
                        f"{block} was not recorded at timestep {timestep:g}, {conditioning}, for"
                        f" {numbered(pictures, first)}, although other timesteps of that call of"
                        f" {type(self._pipe).__name__} were: it ended early, or has another"
                        " schedule; run the pictures again"
                    )
            first += pictures


def in_order(parts: Iterable[tuple[int, Tensor]]) -> Tensor:
    """The pictures of (number of the call, its part), call by call: a call made inside of another
    comes after it."""
    tensors = [part for _, part in sorted(parts, key=lambda each: each[0])]
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def numbered(pictures: int, first: int = 0) -> str:
    """Pictures by their numbers: `pictures 0 to 3`."""
    last = first + pictures - 1
    return f"picture {first}" if pictures == 1 else f"pictures {first} to {last}"


def check_visited(timesteps: Iterable[float], clock: Clock) -> None:
    """`UserError` when a wanted timestep never came."""
    missing = sorted(set(timesteps) - set(clock.visited), reverse=True)
    if missing:
        visited = ", ".join(f"{t:g}" for t in dict.fromkeys(clock.visited))
        came = visited or "none: the denoiser was not called"
        raise UserError(
            f"timestep {', '.join(f'{t:g}' for t in missing)} never came; those that came: {came}. "
            "Take wanted timesteps from the scheduler that runs, with its number of steps"
        )
