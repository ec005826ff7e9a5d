"""A pipeline's denoiser, and how one of its blocks is named: by its dotted module path, or by its
place in the list of blocks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diffusae.backbone.blocks import HookpointInfo
from diffusae.backbone.sites import at, layer_of, parsed
from diffusae.errors import UserError, together, unknown

if TYPE_CHECKING:
    import torch
    from torch import nn

COMPONENTS = ("unet", "transformer")
"""Attributes of a pipeline that may hold its denoiser."""

_INNER = re.compile(r"(.+)\.transformer_blocks\.(\d+)")
"""A transformer block in a U-Net's 2D transformer."""


def denoiser_of(pipe: Any) -> nn.Module:
    """The pipeline's U-Net or transformer; `UserError` for a pipeline without one."""
    from torch import nn

    for component in COMPONENTS:
        denoiser = getattr(pipe, component, None)
        if isinstance(denoiser, nn.Module):
            return denoiser
    raise UserError(
        f"{type(pipe).__name__} has no U-Net ('unet') and no transformer ('transformer') with "
        "blocks to hook; use a text-to-image pipeline of diffusers"
    )


def execution_device(pipe: Any) -> torch.device:
    """The device that computes. Under offloading, `pipe.device` is where the weights are
    instead."""
    return getattr(pipe, "_execution_device", pipe.device)


def find(known: Mapping[str, HookpointInfo], wanted: str | int) -> HookpointInfo:
    """The hookpoint of a name (`backbone.sites`), or of a place in the list of blocks: 0 is the
    first, -1 the last.

    Raises:
        UserError: the block does not exist, and the message lists the valid ones; or it does not
            have the site or the stream.
    """
    path, site, stream = parsed(wanted)
    return at(_block(known, path), site or "update", stream or "picture")


def _block(known: Mapping[str, HookpointInfo], wanted: str | int) -> HookpointInfo:
    if isinstance(wanted, int):
        if not -len(known) <= wanted < len(known):
            raise UserError(
                f"hookpoint {wanted} does not exist: the model has {len(known)}; give 0 to"
                f" {len(known) - 1}, or a path"
            )
        return list(known.values())[wanted]
    inner = _INNER.fullmatch(wanted)
    if inner is not None and wanted not in known and inner[1] in known:
        return layer_of(known[inner[1]], int(inner[2]))
    if wanted not in known:
        raise unknown("hookpoint", wanted, known)
    return known[wanted]


def find_all(
    known: Mapping[str, HookpointInfo], hookpoints: Mapping[str, str | int]
) -> dict[str, HookpointInfo]:
    """{block: info} of {block: name or place}. One `UserError` lists all that do not exist."""
    infos: dict[str, HookpointInfo] = {}
    faults = []
    for block, wanted in hookpoints.items():
        try:
            infos[block] = find(known, wanted)
        except UserError as error:
            faults.append(f"block {block!r}: {error}")
    together(faults)
    return infos
