"""Loading, describing and calling the studied model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diffusae.backbone.describe import Description, describe
from diffusae.backbone.families.table import require_text_to_image
from diffusae.backbone.hookpoints import find
from diffusae.backbone.joint_blocks import joint_blocks
from diffusae.backbone.schedule import timestep_at
from diffusae.backbone.settings import ModelSettings
from diffusae.backbone.text_layers import find_text_layers
from diffusae.errors import UserError, together, unknown
from diffusae.study.grid_checks import conditioning_faults
from diffusae.study.settings import GenerationCollection, GridSettings
from diffusae.study.study import Study

if TYPE_CHECKING:
    from diffusae.backbone.adapters import Adapter


def load_model(model: ModelSettings) -> Any:
    """The pipeline of the studied model, on the accelerator where there is one."""
    import torch

    from diffusae.backbone.compiled import compile_denoiser
    from diffusae.backbone.load import load_pipeline

    pipe: Any = load_pipeline(
        model.source,
        dtype=getattr(torch, model.dtype),
        device="cuda" if torch.cuda.is_available() else "cpu",
        revision=model.revision,
        variant=model.variant,
        scheduler=model.scheduler,
        log_snr_shift=model.log_snr_shift,
        lora=model.lora,
        saving=model.saving,
    )
    if model.compile:
        compile_denoiser(pipe)
    return pipe


def describe_model(
    model: ModelSettings, *, text_layers: bool = False, videos: bool = False
) -> Description:
    """The model before its weights, with its text encoders' layers where they are wanted.

    Raises:
        UserError: as `describe`; the model makes videos, and `videos` does not say that they serve.
    """
    description = describe(
        model.source,
        revision=model.revision,
        architecture=model.architecture,
        text_tokens=model.text_tokens,
        text_layers=text_layers,
    )
    if not videos:
        require_text_to_image(description.pipeline)
    return description


def sampling(model: ModelSettings, **changed: Any) -> dict[str, Any]:
    """The arguments of `generate` that are the same for every picture; `changed` replaces some."""
    names = ("steps", "guidance", "true_guidance", "text_tokens", "height", "width")
    return {name: getattr(model, name) for name in names} | changed


def scheduler_timestep(pipe: Any, adapter: Adapter, model: ModelSettings, t: float) -> float:
    """The scheduler's own value at time t of one of the model's pictures."""
    unit = pipe.vae_scale_factor * adapter.patch
    positions = (model.height // unit) * (model.width // unit)
    return timestep_at(
        pipe.scheduler,
        model.steps,
        t,
        schedule=lambda scheduler, steps: adapter.schedule(scheduler, steps, positions),
    )


def check_hookpoints(study: Study, description: Description) -> None:
    """Raise one `UserError` with every configured hookpoint or text layer that the model does not
    have, and everything else in its configuration that is not true of the model.
    """
    if study.kind == "text":
        find_text_layers(
            description.text_layers,
            dict.fromkeys([study.cell.block, *GridSettings.of(study.cfg).blocks]),
        )
        return
    model, faults = ModelSettings.of(study.cfg), []
    for block, wanted in study.hookpoints.items():
        try:
            find(description.hookpoints, wanted)
        except UserError as error:
            faults.append(f"block {block} of model {model.name}: {error}")
    for name, configured, own in (
        ("guidance_layout", model.guidance_layout, description.layout),
        ("latent_scale", model.latent_scale, description.latent_scale),
    ):
        if configured not in (None, own, "none"):
            faults.append(f"model.{name}={configured}, but the model's is {own}; set that, or null")
    for side, pixels in (("height", model.height), ("width", model.width)):
        if pixels % description.scale:
            lower = max(1, pixels // description.scale) * description.scale
            faults.append(
                f"model.{side}={pixels} is not a multiple of {description.scale}; give one,"
                f" such as {lower}"
            )
    if study.layout is None:  # so that `Study.check` could not tell which branches run
        guided = "uncond" in study.branches_of(description.layout)
        faults += conditioning_faults(study.cfg, guided=guided, layout=description.layout)
    if study.kind == "generation" and GenerationCollection.of(study.cfg).concepts:
        chosen = GenerationCollection.of(study.cfg).concept_blocks or []
        try:
            joint = joint_blocks(description.hookpoints, model.name)
            faults += [
                str(unknown("joint block", one, joint)) for one in chosen if one not in joint
            ]
        except UserError as error:
            faults.append(str(error))
    together(faults)
