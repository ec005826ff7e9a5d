"""Which kernels compute with the chosen latents in training."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, get_args

from diffusae.errors import UserError, unknown
from diffusae.sae.settings import KernelsName

if TYPE_CHECKING:
    from diffusae.sae.sparse_ops import Kernels


def kernels_by_name(name: KernelsName) -> Kernels:
    """torch's own kernels, or those of `diffusae.sae.triton_kernels`.

    Raises:
        UserError: an unknown name, or Triton is not installed.
    """
    if name not in get_args(KernelsName):
        raise unknown("kernels", name, get_args(KernelsName))
    if name == "torch":
        from diffusae.sae.sparse_ops import TORCH

        return TORCH
    if find_spec("triton") is None:
        raise UserError(
            "kernels=triton need the package triton, which is not installed; a CUDA build of torch"
            " brings it, `pip install diffusae[triton]` too; or set trainer.kernels=torch"
        )
    from diffusae.sae.triton_kernels import KERNELS

    return KERNELS


def check_device(name: KernelsName, device_type: str) -> None:
    """Raise `UserError` where these kernels do not run on devices of this type."""
    if name == "triton" and device_type != "cuda" and not interpreted():
        raise UserError(
            f"kernels=triton run on CUDA devices, and this training is on {device_type!r}; set"
            " trainer.kernels=torch"
        )


def interpreted() -> bool:
    """Whether Triton interprets kernels on the CPU, slowly, as in tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"
