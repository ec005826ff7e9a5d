"""A check that every wanted block, timestep, branch and picture is recorded exactly once."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusae.backbone.calls import Call
from diffusae.capture.clock import Clock
from diffusae.errors import UserError

Key = tuple[str, float, str]
"""(block, the scheduler's timestep, conditioning)"""


class Account:
    """What one context has recorded of the pipeline calls in it.

    In the caller's own loop, all denoiser calls count as new pictures, since a second loop and a
    repeated timestep look alike.

    Args:
        blocks, timesteps, conditionings: what must be recorded of a pipeline call.
    """

    def __init__(
        self,
        pipe: Any,
        blocks: Collection[str],
        timesteps: Collection[float],
        conditionings: Collection[str],
    ) -> None:
        self._pipe = pipe
        self._wanted = [(b, float(t), c) for t in timesteps for b in blocks for c in conditionings]
        self._recorded: dict[Call | None, set[Key]] = {}

    def enter(self, clock: Clock, block: str, conditioning: str) -> int:
        """Note a recording of the running call, and return the call's number, which orders
        pictures.

        Raises:
            UserError: the call has recorded it before, so its scheduler repeats a timestep.
        """
        call, timestep = clock.branches.call, clock.now
        assert timestep is not None
        recorded = self._recorded.setdefault(call, set())
        key = (block, float(timestep), conditioning)
        if key in recorded and call is not None:
            raise UserError(
                f"{block} ran 2 times at timestep {timestep:g}: this scheduler "
                f"({type(self._pipe.scheduler).__name__}) calls the denoiser more than once per "
                "step; use DDIM"
            )
        recorded.add(key)
        return list(self._recorded).index(call)

    def close(self) -> None:
        """`UserError` for a call that was recorded only in part, for example a stopped one."""
        first = 0
        for call, recorded in self._recorded.items():
            if call is None:
                continue
            pictures = call.pictures or 1
            for key in self._wanted:
                if key not in recorded:
                    block, timestep, conditioning = key
                    raise UserError(
                        f"{block} was not recorded at timestep {timestep:g}, {conditioning}, for "
                        f"{numbered(pictures, first)}, although other timesteps of that call of "
                        f"{type(self._pipe).__name__} were: it ended early, or has another "
                        "schedule; run the pictures again"
                    )
            first += pictures


def in_order(parts: Iterable[tuple[int, Tensor]]) -> Tensor:
    """The pictures of all (call's number, tensor), in the order of the calls. Shorter texts end
    with vectors of 0."""
    tensors = [tensor for _, tensor in sorted(parts, key=lambda part: part[0])]
    most = max(tensor.shape[1] for tensor in tensors)
    tensors = [
        one if one.shape[1] == most else F.pad(one, (0, 0, 0, most - one.shape[1]))
        for one in tensors
    ]
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def numbered(pictures: int, first: int = 0) -> str:
    """Pictures in words: `pictures 0 to 3`."""
    last = first + pictures - 1
    return f"picture {first}" if pictures == 1 else f"pictures {first} to {last}"


def check_visited(timesteps: Iterable[float], clock: Clock) -> None:
    """`UserError` if a wanted timestep never came."""
    missing = sorted(set(timesteps) - set(clock.visited), reverse=True)
    if missing:
        visited = ", ".join(f"{t:g}" for t in dict.fromkeys(clock.visited))
        came = visited or "none: the denoiser was not called"
        raise UserError(
            f"timestep {', '.join(f'{t:g}' for t in missing)} never came; those that came: {came}. "
            "Take wanted timesteps from the scheduler that runs, with its number of steps"
        )
