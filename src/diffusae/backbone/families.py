"""Kinds of pipelines that are served, and what is said of the others: their class, and what they lack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusae.backbone.hookpoints import COMPONENTS
from diffusae.backbone.layouts import KNOWN, TEXT_TO_IMAGE, calling_class
from diffusae.errors import UserError

ADAPTER_NEEDS = (
    "an adapter would have to know how its latents lie, which grid and time its denoiser takes, and which rows of a call are "
    "which branch of guidance (docs/models.md, 'Another model')"
)
DENOISERS = (
    "UNet2DConditionModel",
    "SD3Transformer2DModel",
    "FluxTransformer2DModel",
    "PixArtTransformer2DModel",
)
"""The classes of diffusers that the adapters know."""


def require_adapter(index: Mapping[str, Any]) -> None:
    """`UserError` for a pipeline whose denoiser no adapter knows, or that asks for code of its folder's own.

    Args:
        index: what its model_index.json says: the pipeline's class, and {component: [library, class]}.
    """
    pipeline = index.get("_class_name")
    denoisers = {name: index[name] for name in COMPONENTS if index.get(name) not in (None, [None, None])}
    for name, entry in {"_class_name": ["diffusers", pipeline], **denoisers}.items():
        if not isinstance(entry, list | tuple) or entry[0] != "diffusers" or isinstance(entry[1], list):
            raise UserError(
                f"{pipeline} does not load: {name} is {index[name]}, which is code of the folder's own, and that is never run; "
                "use a pipeline of diffusers"
            )
    for _, kind in denoisers.values():
        if kind not in DENOISERS:
            raise UserError(
                f"{pipeline} is not served: its denoiser is a {kind}, and there are adapters for {', '.join(DENOISERS)}; "
                f"{ADAPTER_NEEDS}"
            )


def require_text_to_image(name: object) -> None:
    """`UserError` for a pipeline, by the name of its class, that does not make a picture of a prompt alone."""
    if name in TEXT_TO_IMAGE:
        return
    if name in KNOWN:
        raise UserError(
            f"{name} needs a picture besides the prompt, so it cannot make one of a prompt alone; use a text-to-image "
            "pipeline, or call it yourself inside capture_updates or steer"
        )
    raise UserError(
        f"{name} is none of the pipelines that are served: {', '.join(TEXT_TO_IMAGE)}; {ADAPTER_NEEDS}"
    )


def refuse_needing_a_picture(pipe: Any) -> None:
    """`UserError` for a loaded pipeline that makes a picture of another picture."""
    name = calling_class(type(pipe)).__name__
    if name in KNOWN:
        require_text_to_image(name)
