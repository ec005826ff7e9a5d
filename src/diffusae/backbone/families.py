"""The supported kinds of pipelines, and the errors for others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusae.backbone.hookpoints import COMPONENTS
from diffusae.backbone.layouts import KNOWN, TEXT_TO_IMAGE, calling_class
from diffusae.backbone.plugin_models import own_adapter, own_passes
from diffusae.errors import UserError

ADAPTER_NEEDS = (
    "an adapter would have to know the layout of its latents, the grid and time of its denoiser, "
    "and which rows of a call are which branch of guidance (docs/models.md, 'Another model')"
)
DENOISERS = (
    "UNet2DConditionModel",
    "SD3Transformer2DModel",
    "FluxTransformer2DModel",
    "PixArtTransformer2DModel",
)
"""The classes of diffusers that the adapters know."""


def require_adapter(index: Mapping[str, Any]) -> None:
    """`UserError` for a pipeline whose denoiser has no adapter.

    Args:
        index: its model_index.json: the pipeline's class, and {component: [library, class]}.
    """
    for name in COMPONENTS:
        match index.get(name):
            case [str(), str() as kind] if kind not in DENOISERS and own_adapter(kind) is None:
                raise UserError(
                    f"{index.get('_class_name')} is not supported: its denoiser is a {kind}, but "
                    f"adapters exist for {', '.join(DENOISERS)}; {ADAPTER_NEEDS}"
                )


def require_text_to_image(name: str) -> None:
    """`UserError` for a class of pipelines that needs more than a prompt, or is unknown."""
    if name in TEXT_TO_IMAGE or (name not in KNOWN and own_passes(name) is not None):
        return
    if name in KNOWN:
        raise UserError(
            f"{name} needs a picture besides the prompt, so it cannot make one of a prompt alone; "
            "use a text-to-image pipeline, or call it yourself inside capture_updates or steer"
        )
    raise UserError(
        f"{name} is none of the supported pipelines: {', '.join(TEXT_TO_IMAGE)}; {ADAPTER_NEEDS}"
    )


def refuse_needing_a_picture(pipe: Any) -> None:
    """`UserError` for a loaded pipeline that makes a picture from another picture."""
    name = calling_class(type(pipe)).__name__
    if name in KNOWN:
        require_text_to_image(name)
