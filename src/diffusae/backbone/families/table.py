"""The families of models that are known, found by the class of a denoiser or of a pipeline, and the
errors for others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusae.backbone.adapters import Adapter
from diffusae.backbone.blocks import HookpointInfo
from diffusae.backbone.families.flux import FluxAdapter
from diffusae.backbone.families.pixart import PixArtAdapter
from diffusae.backbone.families.stable_diffusion import StableDiffusionAdapter
from diffusae.backbone.families.stable_diffusion_3 import StableDiffusion3Adapter
from diffusae.backbone.hookpoints import COMPONENTS, denoiser_of
from diffusae.backbone.outline import Outline
from diffusae.backbone.passes import PassesOf
from diffusae.backbone.plugin_models import own_adapter, own_adapters
from diffusae.errors import UserError

FAMILIES: tuple[type[Adapter], ...] = (
    StableDiffusionAdapter,
    StableDiffusion3Adapter,
    FluxAdapter,
    PixArtAdapter,
)

ADAPTER_NEEDS = (
    "an adapter would have to know the layout of its latents, the grid and time of its denoiser, "
    "and which rows of a call are which branch of guidance (docs/models.md, 'Another model')"
)

_BY_DENOISER = {name: family for family in FAMILIES for name in family.denoisers}
_BY_PIPELINE = {
    name: family for family in FAMILIES for name in (*family.pipelines, *family.with_a_picture)
}


def adapter_class(denoiser: str) -> type[Adapter] | None:
    """The adapter of a class of denoisers, shipped or of a user's own package; None without one."""
    return _BY_DENOISER.get(denoiser) or own_adapter(denoiser)


def adapter_of(pipe: Any) -> Adapter:
    """The adapter of a pipeline; `UserError` if it has no denoiser, or one without an adapter."""
    return adapter_for(denoiser_of(pipe))


def adapter_for(denoiser: Any) -> Adapter:
    """The adapter of a denoiser, compiled or not; `UserError` if none serves its class."""
    denoiser = getattr(denoiser, "_orig_mod", denoiser)
    kinds = (adapter_class(kind.__name__) for kind in type(denoiser).__mro__)
    found = next((kind for kind in kinds if kind is not None), None)
    if found is None:
        raise _no_adapter(type(denoiser).__name__)
    return found(denoiser)


def list_hookpoints(denoiser: Any) -> dict[str, HookpointInfo]:
    """{path: info} of all transformer blocks (`mid_block.attentions.0`), in module order."""
    return adapter_for(denoiser).hookpoints()


def outline_of(config: Mapping[str, Any]) -> Outline | None:
    """The outline of a denoiser's configuration with its `_class_name`; None where it is not of a
    known kind.
    """
    kind = _BY_DENOISER.get(config.get("_class_name", ""))
    return None if kind is None else kind.outline(config)


def padded_tokens(pipeline: str) -> int | None:
    """Tokens that a class of pipelines pads T5 prompts to; None: it has no such limit."""
    family = _BY_PIPELINE.get(pipeline)
    return None if family is None else family.padded.get(pipeline)


def calling_class(kind: type) -> type:
    """The class that defines `__call__` of this class; the class itself if none does."""
    return next((base for base in kind.__mro__ if "__call__" in vars(base)), kind)


def passes_of(kind: type) -> PassesOf | None:
    """The passes of a pipeline of this class; None if they are unknown. A class that inherits
    `__call__` counts as the class that defines it."""
    caller = calling_class(kind)
    if not caller.__module__.startswith("diffusers."):
        return None
    family = _family_of(caller.__name__)
    return None if family is None else family.passes(caller.__name__)


def text_to_image_pipelines() -> list[str]:
    """The classes of pipelines that the stages can run."""
    return [name for family in (*FAMILIES, *own_adapters()) for name in family.pipelines]


def require_adapter(index: Mapping[str, Any]) -> None:
    """`UserError` for a pipeline whose denoiser has no adapter.

    Args:
        index: its model_index.json: the pipeline's class, and {component: [library, class]}.
    """
    for name in COMPONENTS:
        match index.get(name):
            case [str(), str() as kind] if adapter_class(kind) is None:
                raise _no_adapter(kind, index.get("_class_name"))


def require_text_to_image(name: str) -> None:
    """`UserError` for a class of pipelines that needs more than a prompt, or is unknown."""
    known = text_to_image_pipelines()
    if name in known:
        return
    if _family_of(name) is not None:
        raise UserError(
            f"{name} needs a picture besides the prompt, so it cannot make one of a prompt alone; "
            "use a text-to-image pipeline, or call it yourself inside capture_updates or steer"
        )
    raise UserError(
        f"{name} is none of the supported pipelines: {', '.join(known)}; {ADAPTER_NEEDS}"
    )


def refuse_needing_a_picture(pipe: Any) -> None:
    """`UserError` for a loaded pipeline that makes a picture from another picture."""
    name = calling_class(type(pipe)).__name__
    if name in _BY_PIPELINE:
        require_text_to_image(name)


def _family_of(pipeline: str) -> type[Adapter] | None:
    """The family of a class of pipelines, shipped or of a user's own package."""
    own = (adapter for adapter in own_adapters() if pipeline in adapter.pipelines)
    return _BY_PIPELINE.get(pipeline) or next(own, None)


def _no_adapter(denoiser: str, pipeline: Any = None) -> UserError:
    known = ", ".join(name for family in FAMILIES for name in family.denoisers)
    what = f"{pipeline} is not supported: its denoiser is a {denoiser}"
    if pipeline is None:
        what = f"a denoiser of the class {denoiser} is not supported"
    return UserError(f"{what}, but adapters exist for {known}; {ADAPTER_NEEDS}")
