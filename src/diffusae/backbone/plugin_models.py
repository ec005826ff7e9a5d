"""Models that users' own packages add: an adapter for another denoiser of diffusers.

The part's name is the denoiser's class, such as HunyuanDiT2DModel; the adapter's `pipelines` are
the classes of pipelines that may be run with it, and its `layout` says how they run guidance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffusae import plugins
from diffusae.backbone.layouts import BY_LAYOUT, PassesOf

if TYPE_CHECKING:
    from diffusae.backbone.adapters import Adapter


def own_adapter(denoiser: str) -> type[Adapter] | None:
    """The adapter that a package offers for a denoiser's class; None where none does."""
    part = next((part for part in plugins.parts("models") if part.name == denoiser), None)
    return None if part is None else _adapter(part)


def own_passes(pipeline: str) -> PassesOf | None:
    """How a pipeline's class runs guidance, where a package's adapter serves it."""
    for part in plugins.parts("models"):
        adapter = _adapter(part)
        if pipeline in adapter.pipelines:
            return BY_LAYOUT[adapter.layout]
    return None


def _adapter(part: plugins.Part) -> type[Adapter]:
    from diffusae.backbone.adapters import Adapter

    kind = part.load()
    if not (isinstance(kind, type) and issubclass(kind, Adapter)):
        raise part.wrong("Adapter")
    return kind
