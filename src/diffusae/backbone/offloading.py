"""A loaded pipeline that needs less GPU memory: weights that wait in the CPU's memory, and parts
that compute in slices. All of it is diffusers' own; what a model cannot do is refused by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from diffusae.backbone.hookpoints import denoiser_of
from diffusae.backbone.packages import require_packages
from diffusae.backbone.settings import Offload, Saving
from diffusae.errors import UserError


def require_accelerator(saving: Saving, device: torch.device) -> None:
    """`UserError` for choices that need a GPU, or packages that are not installed."""
    if saving.offload != "none" and device.type == "cpu":
        raise UserError(
            f"model.offload={saving.offload} keeps weights off the GPU, and torch sees no GPU on"
            " this machine: all weights are in the CPU's memory anyway; set model.offload=none"
        )
    if saving.offload != "none":
        require_packages(f"model.offload={saving.offload}", "offload", "accelerate")


def compute_in_slices(pipe: Any, saving: Saving) -> None:
    """Switch on the wanted slicing and tiling.

    Raises:
        UserError: the denoiser or the VAE has none.
    """
    if saving.attention_slicing:
        denoiser = denoiser_of(pipe)
        if not hasattr(denoiser, "set_attention_slice"):
            raise _unable(denoiser, "attention_slicing")
        pipe.enable_attention_slicing()
    for setting, method in (("vae_slicing", "enable_slicing"), ("vae_tiling", "enable_tiling")):
        if getattr(saving, setting):
            try:
                getattr(pipe.vae, method)()
            except (AttributeError, NotImplementedError) as error:
                raise _unable(pipe.vae, setting) from error


def offload(pipe: Any, how: Offload, device: torch.device) -> None:
    """Let the weights of a pipeline on the CPU come to `device` only to compute.

    - `model`: one component after the other, whole.
    - `sequential`: one layer after the other; meanwhile parameters are on the meta device.
    - `group`: one block of the denoiser after the other; of the other components one layer.
    """
    match how:
        case "model":
            pipe.enable_model_cpu_offload(device=device)
        case "sequential":
            pipe.enable_sequential_cpu_offload(device=device)
        case "group":
            for module in modules_of(pipe).values():
                _offload_groups(module, device, blocks=module is denoiser_of(pipe))


def modules_of(pipe: Any) -> dict[str, nn.Module]:
    """{name: component} of all components with weights."""
    components = pipe.components.items()
    return {name: module for name, module in components if isinstance(module, nn.Module)}


def _offload_groups(module: nn.Module, device: torch.device, *, blocks: bool) -> None:
    from diffusers.hooks import apply_group_offloading

    if not getattr(module, "_supports_group_offloading", True):
        raise UserError(
            f"{type(module).__name__} cannot be offloaded in groups; set model.offload=model"
        )
    by_block: Any = {"offload_type": "block_level", "num_blocks_per_group": 1}
    by_layer: Any = {"offload_type": "leaf_level"}
    apply_group_offloading(
        module,
        onload_device=device,
        offload_device=torch.device("cpu"),
        **(by_block if blocks else by_layer),
    )


def _unable(module: nn.Module, setting: str) -> UserError:
    return UserError(
        f"{type(module).__name__} cannot do model.{setting}=true; set model.{setting}=false"
    )


def refuse_offloaded(module: nn.Module, reader: str) -> None:
    """`UserError` for a component that is offloaded. `reader` uses its weights outside of a
    call."""
    hooked = any(hasattr(part, "_hf_hook") or _in_group(part) for part in module.modules())
    if hooked:
        raise UserError(
            f"{reader} and offloading do not go together: it uses weights of the"
            f" {type(module).__name__} that are not on the GPU then; set model.offload=none"
        )


def _in_group(module: nn.Module) -> bool:
    registry: Any = getattr(module, "_diffusers_hook", None)
    return registry is not None and registry.get_hook("group_offloading") is not None
