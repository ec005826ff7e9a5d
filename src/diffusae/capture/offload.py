"""Copies off the device that do not hold up generation."""

from __future__ import annotations

import torch
from torch import Tensor


class Offload:
    """Copies tensors to the CPU.

    From an accelerator they go into pinned memory while it computes on: what is returned must not
    be read before `wait`. From the CPU nothing waits. A copy owns its memory and is contiguous.
    """

    def __init__(self) -> None:
        self._devices: set[torch.device] = set()

    def __call__(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """A copy of `tensor` on the CPU as `dtype`."""
        if tensor.device.type != "cuda":
            return tensor.detach().to(
                "cpu", dtype, copy=True, memory_format=torch.contiguous_format
            )
        self._devices.add(tensor.device)
        ready = tensor.detach().to(dtype).contiguous()
        copy = torch.empty(ready.shape, dtype=dtype, pin_memory=True)
        # Copied in the order of the stream, so whatever takes the source's memory next comes after.
        return copy.copy_(ready, non_blocking=True)

    def wait(self) -> None:
        """Return when every copy is whole."""
        for device in self._devices:
            torch.cuda.current_stream(device).synchronize()
        self._devices.clear()
