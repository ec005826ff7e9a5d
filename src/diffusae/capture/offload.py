"""Copying from the device to the CPU without waiting."""

from __future__ import annotations

import torch
from torch import Tensor


class Offload:
    """Copies tensors to the CPU. A copy is contiguous and owns its memory.

    From a GPU, tensors are copied into pinned memory while it computes on. They must not be read
    before `wait`.
    """

    def __init__(self) -> None:
        self._devices: set[torch.device] = set()

    def __call__(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """A copy of `tensor` on the CPU as `dtype`."""
        if tensor.device.type != "cuda":
            form = torch.contiguous_format
            return tensor.detach().to("cpu", dtype, copy=True, memory_format=form)
        self._devices.add(tensor.device)
        ready = tensor.detach().to(dtype).contiguous()
        copy = torch.empty(ready.shape, dtype=dtype, pin_memory=True)
        # The stream keeps its order, so the source's memory is reused only after the copy.
        return copy.copy_(ready, non_blocking=True)

    def wait(self) -> None:
        """Return when all copies are complete."""
        for device in self._devices:
            torch.cuda.current_stream(device).synchronize()
        self._devices.clear()
