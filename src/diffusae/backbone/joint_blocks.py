"""Blocks in which picture and text are two streams that attend to each other."""

from __future__ import annotations

from collections.abc import Mapping

from diffusae.backbone.blocks import HookpointInfo
from diffusae.errors import UserError

JOINT_BLOCKS = ("JointTransformerBlock", "FluxTransformerBlock")
"""Classes of blocks whose `attn` projects the text by weights of its own, of Stable Diffusion 3 and
FLUX.1.
"""


def joint_blocks(known: Mapping[str, HookpointInfo], model: str) -> list[str]:
    """The paths of the joint blocks among the hookpoints of a model, in their order.

    Raises:
        UserError: there is none.
    """
    paths = [path for path, info in known.items() if info.kind in JOINT_BLOCKS]
    if not paths:
        kinds = ", ".join(dict.fromkeys(info.kind for info in known.values())) or "no blocks"
        raise UserError(
            f"ConceptAttention needs joint blocks ({', '.join(JOINT_BLOCKS)}), in which picture and"
            f" text attend to each other, and {model} has {kinds}; set collection.concepts=null"
        )
    return paths
