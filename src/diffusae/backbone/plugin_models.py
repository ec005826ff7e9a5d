"""Models that users' own packages add: an adapter for another denoiser of diffusers.

The part's name is the denoiser's class, such as KolorsDenoiser; the adapter's `pipelines` are the
classes of pipelines that may be run with it, and its `layout` says how they run guidance.
"""

from __future__ import annotations

from collections.abc import Iterator

from diffusae import plugins
from diffusae.backbone.adapters import Adapter


def own_adapter(denoiser: str) -> type[Adapter] | None:
    """The adapter that a package offers for a denoiser's class; None where none does."""
    part = next((part for part in plugins.parts("models") if part.name == denoiser), None)
    return None if part is None else _adapter(part)


def own_adapters() -> Iterator[type[Adapter]]:
    """All adapters that packages offer."""
    return map(_adapter, plugins.parts("models"))


def _adapter(part: plugins.Part) -> type[Adapter]:
    kind = part.load()
    if not (isinstance(kind, type) and issubclass(kind, Adapter)):
        raise part.wrong("Adapter")
    return kind
