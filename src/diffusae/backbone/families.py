"""Kinds of pipelines that are served, and what is said of the others: their class, and what they
lack.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusae.backbone.hookpoints import COMPONENTS
from diffusae.backbone.layouts import KNOWN, TEXT_TO_IMAGE, calling_class
from diffusae.backbone.plugin_models import own_adapter, own_passes
from diffusae.errors import UserError

ADAPTER_NEEDS = (
    "an adapter would have to know how its latents lie, which grid and time its denoiser takes, and"
    " which rows of a call are which branch of guidance (docs/models.md, 'Another model')"
)
DENOISERS = (
    "UNet2DConditionModel",
    "SD3Transformer2DModel",
    "FluxTransformer2DModel",
    "PixArtTransformer2DModel",
)
"""The classes of diffusers that the adapters know."""


def require_adapter(index: Mapping[str, Any]) -> None:
    """`UserError` for a pipeline whose denoiser no adapter knows.

    Args:
        index: what its model_index.json says: the pipeline's class, and {component: [library,
            class]}.
    """
    for name in COMPONENTS:
        match index.get(name):
            case [str(), str() as kind] if kind not in DENOISERS and own_adapter(kind) is None:
                raise UserError(
                    f"{index.get('_class_name')} is not served: its denoiser is a {kind}, and there"
                    f" are adapters for {', '.join(DENOISERS)}; {ADAPTER_NEEDS}"
                )


def require_text_to_image(name: str) -> None:
    """`UserError` for a pipeline, by the name of its class, that does not make a picture of a
    prompt alone.
    """
    if name in TEXT_TO_IMAGE or (name not in KNOWN and own_passes(name) is not None):
        return
    if name in KNOWN:
        raise UserError(
            f"{name} needs a picture besides the prompt, so it cannot make one of a prompt alone;"
            " use a text-to-image pipeline, or call it yourself inside capture_updates or steer"
        )
    raise UserError(
        f"{name} is none of the pipelines that are served: {', '.join(TEXT_TO_IMAGE)};"
        f" {ADAPTER_NEEDS}"
    )


def refuse_needing_a_picture(pipe: Any) -> None:
    """`UserError` for a loaded pipeline that makes a picture of another picture."""
    name = calling_class(type(pipe)).__name__
    if name in KNOWN:
        require_text_to_image(name)
