"""Where heavy work is done."""

from __future__ import annotations

import torch


def default_device(device: str | None = None) -> torch.device:
    """`device`, or the GPU where there is one."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
