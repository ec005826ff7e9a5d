"""Which kernels compute with the latents in training."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, get_args

from diffusae.errors import UserError, unknown
from diffusae.sae.settings import KernelsName, SelectionPrecision

if TYPE_CHECKING:
    from diffusae.sae.sparse_ops import Kernels
    from diffusae.sae.sparsity import Sparsity

DENSE_UP_TO = 512
"""Latents for every active one up to which dense products win on a GPU.

Measured on an H200 at d_in 1280, k 20 and d_sae 5120, which is 256: a dense product takes .08 ms,
what it replaces .14 to .29 ms. The first grows with d_sae, the second does not. At 1536 (d_in 3072,
d_sae 49152, k 32) dense products took 26.7 ms a step, and rows that Triton picks 19.9.
"""


def fitting(
    name: Literal["auto", KernelsName],
    *,
    device_type: str,
    precision: SelectionPrecision,
    sparsity: Sparsity,
    d_sae: int,
    shards: bool = False,
) -> tuple[KernelsName, str]:
    """What `trainer.kernels` means for a training, and the reason, for a message.

    Args:
        shards: whether latents are dealt over processes.
    """
    if name != "auto":
        return name, "as trainer.kernels says"
    if device_type != "cuda":
        return "torch", f"the device is {device_type!r}"
    if precision == "float32":
        return "torch", "sae.selection_precision=float32"
    k = getattr(sparsity, "k", None)
    if k is None or not sparsity.by_row:
        return "dense", f"the sparsity {sparsity.name} has no fixed number of latents a row"
    if d_sae <= DENSE_UP_TO * k and not shards:
        return "dense", f"d_sae={d_sae} is at most {DENSE_UP_TO} times k={k}"
    chosen = "torch" if find_spec("triton") is None else "triton"
    if shards:
        return chosen, "latents are dealt over processes"
    return chosen, f"d_sae={d_sae} is above {DENSE_UP_TO} times k={k}"


def kernels_by_name(name: KernelsName) -> Kernels:
    """torch's own kernels, or those of `diffusae.sae.triton_kernels`. "dense" needs them outside of
    training alone, where they are torch's.

    Raises:
        UserError: an unknown name, or Triton is not installed.
    """
    if name not in get_args(KernelsName):
        raise unknown("kernels", name, get_args(KernelsName))
    if name != "triton":
        from diffusae.sae.sparse_ops import TORCH

        return TORCH
    if find_spec("triton") is None:
        raise UserError(
            "kernels=triton need the package triton, which is not installed; a CUDA build of torch"
            " brings it, `pip install diffusae[triton]` too; or set trainer.kernels=auto"
        )
    from diffusae.sae.triton_kernels import KERNELS

    return KERNELS


def check_device(name: Literal["auto", KernelsName], device_type: str) -> None:
    """Raise `UserError` where these kernels do not run on devices of this type."""
    if name == "triton" and device_type != "cuda" and not interpreted():
        raise UserError(
            f"kernels=triton run on CUDA devices, and this training is on {device_type!r}; set"
            " trainer.kernels=auto"
        )


def interpreted() -> bool:
    """Whether Triton interprets kernels on the CPU, slowly, as in tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"
