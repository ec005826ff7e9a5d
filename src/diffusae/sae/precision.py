"""The precision of the product by which latents are chosen in training."""

from __future__ import annotations

from diffusae.sae.settings import SelectionPrecision


def fastest(device_type: str) -> SelectionPrecision:
    """What `selection_precision=auto` means on this machine: "bfloat16" where the device multiplies
    matrices of it.

    Such are GPUs from Ampere on and CPUs with AMX; without AMX a product in bfloat16 is slower than
    in float32. It follows from what the device can do, not from a measurement, so that it is the
    same at every call. Never "int8": an entry that towers over its row costs the others their
    precision (`diffusae.sae.quantised`).
    """
    import torch

    if device_type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device_type == "cpu":
        # Older releases of torch cannot say.
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()
        fast = torch.backends.mkldnn.is_available() and capabilities.get("amx_bf16", False)
    else:
        fast = False
    return "bfloat16" if fast else "float32"
