"""The branches of guidance in the denoiser calls of a step, by the pipeline's class.

A pipeline makes one or more passes of its denoiser per step. Stable Diffusion 1, 2, XL and 3 and
PixArt make one, with the batch [uncond, cond] under guidance and [cond] without.
Perturbed-attention guidance (PAG, arXiv 2403.17377) appends a third branch. FLUX makes a pass for
`cond`, and one for `uncond` if a true guidance scale and a negative prompt are given. Other classes
are refused, since their rows are unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from diffusae.backbone.settings import Layout

Branches = tuple[str, ...]
"""The branches of one batch, in order."""

Passes = tuple[Branches, ...]
"""The denoiser calls of one step, in order."""

CONDITIONINGS = ("cond", "uncond")
GUIDED: Branches = ("uncond", "cond")
UNGUIDED: Branches = ("cond",)

PERTURBED = "perturbed"
"""The conditional branch again, without self-attention (PAG)."""
SKIPPED = "skipped"
"""The conditional branch again, without some layers, as an extra pass (`skip_guidance_layers` of
Stable Diffusion 3)."""


def configured_branches(
    layout: Layout | None, guidance: float, true_guidance: float | None
) -> Branches:
    """The branches that a call with these scales runs at each step, whatever the denoiser; None:
    taken as one batch.

    Guidance works above 1 only. Two passes are asked for by `true_guidance`: `guidance` is an input
    of such models.
    """
    if layout == "none":
        return UNGUIDED
    scale = (true_guidance or 1.0) if layout == "two_passes" else guidance
    return GUIDED if scale > 1.0 else UNGUIDED


_ASKED = "do_classifier_free_guidance"

PassesOf = Callable[[Any, Mapping[str, Any]], Passes]
"""(pipeline, the call's arguments) -> the passes of the running step."""


def _one_batch(pipe: Any, given: Mapping[str, Any]) -> Passes:
    """Guidance may change between steps, so the pipeline's own property is read if it exists."""
    guided = getattr(pipe, _ASKED) if hasattr(type(pipe), _ASKED) else given["guidance_scale"] > 1
    return (GUIDED if guided else UNGUIDED,)


def _perturbed(pipe: Any, given: Mapping[str, Any]) -> Passes:
    (branches,) = _one_batch(pipe, given)
    return ((*branches, PERTURBED) if pipe.do_perturbed_attention_guidance else branches,)


def _one_per_branch(_pipe: Any, given: Mapping[str, Any]) -> Passes:
    embedded = (given.get(f"negative_{name}prompt_embeds") is not None for name in ("", "pooled_"))
    negative = given.get("negative_prompt") is not None or all(embedded)
    guided = negative and given.get("true_cfg_scale", 1.0) > 1
    return (("cond",), ("uncond",)) if guided else (("cond",),)


BY_LAYOUT: Mapping[Layout, PassesOf] = {
    "one_batch": _one_batch,
    "two_passes": _one_per_branch,
    "none": lambda _pipe, _given: (UNGUIDED,),
}
"""What pipelines of a user's own adapter run, by its layout."""

TEXT_TO_IMAGE: Mapping[str, PassesOf] = {
    "StableDiffusionPipeline": _one_batch,
    "StableDiffusionXLPipeline": _one_batch,
    "StableDiffusion3Pipeline": _one_batch,
    "FluxPipeline": _one_per_branch,
    "PixArtAlphaPipeline": _one_batch,
    "PixArtSigmaPipeline": _one_batch,
    "LatentConsistencyModelPipeline": _one_batch,
    "StableDiffusionPAGPipeline": _perturbed,
    "StableDiffusionXLPAGPipeline": _perturbed,
    "StableDiffusion3PAGPipeline": _perturbed,
    "PixArtSigmaPAGPipeline": _perturbed,
}
"""Pipelines that need only a prompt, by class. The stages can run them."""

_WITH_A_PICTURE = {
    _one_batch: (
        "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline",
        "StableDiffusionDepth2ImgPipeline", "StableDiffusionUpscalePipeline",
        "StableDiffusionAdapterPipeline", "StableDiffusionXLAdapterPipeline",
        "StableDiffusionControlNetPipeline", "StableDiffusionControlNetImg2ImgPipeline",
        "StableDiffusionControlNetInpaintPipeline", "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline", "StableDiffusionXLControlNetPipeline",
        "StableDiffusionXLControlNetImg2ImgPipeline", "StableDiffusionXLControlNetInpaintPipeline",
        "StableDiffusionXLControlNetUnionPipeline",
        "StableDiffusionXLControlNetUnionImg2ImgPipeline",
        "StableDiffusionXLControlNetUnionInpaintPipeline", "StableDiffusion3Img2ImgPipeline",
        "StableDiffusion3InpaintPipeline", "StableDiffusion3ControlNetPipeline",
        "StableDiffusion3ControlNetInpaintingPipeline", "LatentConsistencyModelImg2ImgPipeline",
    ),
    _perturbed: (
        "StableDiffusionPAGImg2ImgPipeline", "StableDiffusionPAGInpaintPipeline",
        "StableDiffusionControlNetPAGPipeline", "StableDiffusionControlNetPAGInpaintPipeline",
        "StableDiffusionXLPAGImg2ImgPipeline", "StableDiffusionXLPAGInpaintPipeline",
        "StableDiffusionXLControlNetPAGPipeline", "StableDiffusionXLControlNetPAGImg2ImgPipeline",
        "StableDiffusion3PAGImg2ImgPipeline",
    ),
    _one_per_branch: (
        "FluxImg2ImgPipeline", "FluxInpaintPipeline", "FluxControlPipeline",
        "FluxControlImg2ImgPipeline", "FluxControlInpaintPipeline", "FluxControlNetPipeline",
        "FluxControlNetImg2ImgPipeline", "FluxControlNetInpaintPipeline", "FluxFillPipeline",
    ),
}  # fmt: skip

KNOWN: Mapping[str, PassesOf] = {
    **TEXT_TO_IMAGE,
    **{name: passes for passes, names in _WITH_A_PICTURE.items() for name in names},
}
"""{class of diffusers: its passes}. A class that inherits `__call__` counts as the class that
defines it."""


def calling_class(kind: type) -> type:
    """The class that defines `__call__` of this class; the class itself if none does."""
    return next((base for base in kind.__mro__ if "__call__" in vars(base)), kind)


def passes_of(kind: type) -> PassesOf | None:
    """The passes of a pipeline of this class; None if they are unknown."""
    from diffusae.backbone.plugin_models import own_passes

    caller = calling_class(kind)
    if not caller.__module__.startswith("diffusers."):
        return None
    return KNOWN.get(caller.__name__) or own_passes(caller.__name__)
