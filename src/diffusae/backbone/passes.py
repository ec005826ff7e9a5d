"""The branches of guidance in the denoiser calls of a step.

A pipeline makes one or more passes of its denoiser per step: one with the batch [uncond, cond]
under guidance and [cond] without, or a pass for `cond` and one for `uncond`. Perturbed-attention
guidance (PAG, arXiv 2403.17377) appends a third branch to the batch. An adapter names the rule of
its family; pipelines that no adapter names are refused, since their rows are unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from diffusae.backbone.settings import Layout

Branches = tuple[str, ...]
"""The branches of one batch, in order."""

Passes = tuple[Branches, ...]
"""The denoiser calls of one step, in order."""

PassesOf = Callable[[Any, Mapping[str, Any]], Passes]
"""(pipeline, the call's arguments) -> the passes of the running step."""

CONDITIONINGS = ("cond", "uncond")
GUIDED: Branches = ("uncond", "cond")
COND_FIRST: Branches = ("cond", "uncond")
UNGUIDED: Branches = ("cond",)

PERTURBED = "perturbed"
"""The conditional branch again, without self-attention (PAG)."""
SKIPPED = "skipped"
"""The conditional branch again, without some layers, as an extra pass (`skip_guidance_layers` of
Stable Diffusion 3)."""

_ASKED = "do_classifier_free_guidance"


BATCHED: tuple[Layout, ...] = ("one_batch", "cond_first")
"""Layouts with all branches in one batch."""


def mixed_by(layout: Layout) -> str:
    """The argument of a pipeline's call that mixes the predictions of its branches."""
    return "true_cfg_scale" if layout == "two_passes" else "guidance_scale"


def configured_branches(
    layout: Layout | None, guidance: float, true_guidance: float | None
) -> Branches:
    """The branches that a call with these scales runs at each step, whatever the denoiser; None:
    all that may run, since the layout is not known yet.

    Guidance works above 1 only, or above 0 with `cond_first`. With `two_passes` the second pass is
    asked for by `true_guidance`: `guidance` is an input of such models.
    """
    if layout == "none":
        return UNGUIDED
    if layout is None:
        return GUIDED if max(guidance, true_guidance or 0.0) > 0.0 else UNGUIDED
    if layout == "cond_first":
        return COND_FIRST if guidance > 0.0 else UNGUIDED
    scale = (true_guidance or 1.0) if layout == "two_passes" else guidance
    return GUIDED if scale > 1.0 else UNGUIDED


def _guided(pipe: Any, given: Mapping[str, Any]) -> bool:
    """Guidance may change between steps, so the pipeline's own property is read if it exists."""
    return getattr(pipe, _ASKED) if hasattr(type(pipe), _ASKED) else given["guidance_scale"] > 1


def one_batch(pipe: Any, given: Mapping[str, Any]) -> Passes:
    """[uncond, cond] under guidance (`guidance_scale` above 1), [cond] without."""
    return (GUIDED if _guided(pipe, given) else UNGUIDED,)


def cond_first(pipe: Any, given: Mapping[str, Any]) -> Passes:
    """[cond, uncond] under guidance (`guidance_scale` above 0), [cond] without."""
    return (COND_FIRST if _guided(pipe, given) else UNGUIDED,)


def perturbed(pipe: Any, given: Mapping[str, Any]) -> Passes:
    """The same with the third branch of perturbed-attention guidance."""
    (branches,) = one_batch(pipe, given)
    return ((*branches, PERTURBED) if pipe.do_perturbed_attention_guidance else branches,)


def guided_passes(pipe: Any, given: Mapping[str, Any]) -> Passes:
    """A pass for `cond`, then one for `uncond` under guidance (`guidance_scale` above 1)."""
    return (UNGUIDED, ("uncond",)) if _guided(pipe, given) else (UNGUIDED,)


def two_passes(_pipe: Any, given: Mapping[str, Any]) -> Passes:
    """A pass for `cond`, then one for `uncond` if `true_cfg_scale` is above 1 and there is a
    negative prompt or its embeddings."""
    embedded = (given.get(f"negative_{name}prompt_embeds") is not None for name in ("", "pooled_"))
    negative = given.get("negative_prompt") is not None or all(embedded)
    guided = negative and given.get("true_cfg_scale", 1.0) > 1
    return (UNGUIDED, ("uncond",)) if guided else (UNGUIDED,)


def unguided(_pipe: Any, _given: Mapping[str, Any]) -> Passes:
    """A pass for `cond` alone."""
    return (UNGUIDED,)


def begun_steps(scheduler: Any) -> int:
    """The index of the step that a pipeline's loop runs now: it asks the denoiser first."""
    return scheduler.step_index or scheduler.begin_index or 0


BY_LAYOUT: Mapping[Layout, PassesOf] = {
    "one_batch": one_batch,
    "cond_first": cond_first,
    "two_passes": two_passes,
    "guided_passes": guided_passes,
    "none": unguided,
}
