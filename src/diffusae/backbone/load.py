"""Loading a text-to-image pipeline from a folder or the hub: safetensors only, no foreign code."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import diffusers.utils.logging as diffusers_logging
import torch
import transformers.utils.logging as transformers_logging
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel as UNet2D
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import nn

from diffusae.backbone.component_configs import REMEDY, require_weights
from diffusae.backbone.families.table import require_adapter
from diffusae.backbone.placement import moved_steps
from diffusae.backbone.settings import SchedulerChoice
from diffusae.backbone.trusted import require_trusted
from diffusae.errors import UserError, unknown
from diffusae.parsing import read_json
from diffusae.sources import first_line, local_folder, refuse_pickles

log = logging.getLogger(__name__)

_INDEX = "model_index.json"
_VARIANT = re.compile(r"[^.]+\.([^.]+?)(?:-\d+-of-\d+)?\.safetensors")
"""`diffusion_pytorch_model.fp16.safetensors`, `model.fp16-00001-of-00002.safetensors`."""
_UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
"""Optional components that are not needed: the first two check finished pictures, the third encodes
image prompts."""


def load_pipeline(
    source: str | Path,
    *,
    dtype: torch.dtype,
    device: str | torch.device,
    revision: str | None = None,
    variant: str | None = None,
    scheduler: SchedulerChoice = "ddim",
    log_snr_shift: float = 0.0,
    safety_checker: bool = False,
) -> DiffusionPipeline:
    """Load a diffusers pipeline with every component on `device` in `dtype`, without progress bars.

    Args:
        source: a folder in the diffusers layout, or a hub id ("owner/name").
        revision: branch, tag or commit of a hub id.
        variant: name of a set of weight files ("fp16").
        scheduler: "ddim" replaces the scheduler by DDIM on the same noise schedule; "keep" keeps
            it.
        log_snr_shift: how much higher the log-SNR of every step is (`placement.moved_steps`).

    Raises:
        UserError: the hub does not serve the model (the message names a folder that would), or the
            folder is no pipeline, has only pickled weights, or asks to run its own code.
    """
    if scheduler not in get_args(SchedulerChoice):
        raise unknown("scheduler", scheduler, get_args(SchedulerChoice))
    unused: dict[str, Any] = {} if safety_checker else dict.fromkeys(_UNUSED)
    with _quiet():
        folder = _folder_of(source, revision=revision, variant=variant, unused=unused)
        components = _read_index(folder)
        require_trusted(folder, components)
        require_adapter(components)
        needed = components.keys() - unused.keys()
        for name in sorted(needed):
            refuse_pickles(folder / name)
        _refuse_another_variant(folder, needed, variant)
        for name in sorted(needed):
            require_weights(folder, name)
        options: dict[str, Any] = {name: None for name in unused if name in components}
        if not safety_checker and "requires_safety_checker" in components:
            options["requires_safety_checker"] = False
        try:
            pipe = DiffusionPipeline.from_pretrained(
                str(folder),
                dtype=dtype,
                variant=variant,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                low_cpu_mem_usage=False,
                **options,
            )
        except Exception as error:  # a damaged folder may raise anything
            what = f"{folder} does not load as a diffusers pipeline: {first_line(error)}"
            raise UserError(what) from error
    # Some libraries ignore `dtype` and load in the stored one.
    pipe = pipe.to(device=torch.device(device), dtype=dtype)
    _check_dtype(pipe, dtype)
    if torch.device(device).type == "cpu" and isinstance(pipe.components.get("unet"), UNet2D):
        pipe.components["unet"].to(memory_format=torch.channels_last)  # CPUs convolve faster so
    if scheduler == "ddim":
        pipe.scheduler = _ddim(pipe.scheduler)
    pipe.scheduler = moved_steps(pipe.scheduler, log_snr_shift)
    pipe.set_progress_bar_config(disable=True)
    log.info("loaded %s from %s as %s on %s", type(pipe).__name__, folder, dtype, device)
    return pipe


def _folder_of(
    source: str | Path, *, revision: str | None, variant: str | None, unused: dict[str, Any]
) -> Path:
    """The local folder of `source`, downloaded from the hub if it is a hub id."""
    return local_folder(
        source,
        setting="model.source",
        holds=f"{_INDEX} and the component folders with their .safetensors files",
        revision=revision,
        download=lambda name: DiffusionPipeline.download(
            name,
            revision=revision,
            variant=variant,
            use_safetensors=True,
            trust_remote_code=False,
            **unused,
        ),
    )


def _read_index(folder: Path) -> dict[str, Any]:
    """The components that a pipeline folder declares."""
    try:
        return read_json(folder / _INDEX, remedy=REMEDY)
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} holds no {_INDEX}; model.source must be a whole pipeline in the diffusers "
            "layout"
        ) from error


def _refuse_another_variant(folder: Path, names: Iterable[str], variant: str | None) -> None:
    """`UserError` for a component that has weights only for another variant."""
    for name in sorted(names):
        files = [path.name for path in sorted((folder / name).glob("*.safetensors"))]
        variants = {match[1] if match else None for match in map(_VARIANT.fullmatch, files)}
        if variants and variant is None and None not in variants:
            stored = sorted(variant for variant in variants if variant)
            raise UserError(
                f"{folder / name} has weights only for a variant ({files[0]}); set "
                f"model.variant={stored[0]}"
            )


def _ddim(scheduler: Any) -> DDIMScheduler:
    """A DDIM scheduler on the noise schedule of `scheduler`.

    DDIM's default clips x0 to [-1, 1], which suits pixels. Latents are clipped only if the config
    says so.

    Raises:
        UserError: a flow-matching scheduler, which has no such noise schedule.
    """
    if not hasattr(scheduler, "alphas_cumprod"):
        raise UserError(
            f"{type(scheduler).__name__} has no noise schedule for DDIM (flow matching); set "
            "model.scheduler=keep"
        )
    ddim = DDIMScheduler.from_config(
        scheduler.config, clip_sample=scheduler.config.get("clip_sample", False)
    )
    assert isinstance(ddim, DDIMScheduler)
    return ddim


def _check_dtype(pipe: DiffusionPipeline, dtype: torch.dtype) -> None:
    """`UserError` for mixed dtypes, which fail in the middle of a run or go unnoticed."""
    for name, component in pipe.components.items():
        if isinstance(component, nn.Module):
            others = {p.dtype for p in component.parameters() if p.is_floating_point()} - {dtype}
            if others:
                raise UserError(
                    f"{name} keeps parameters in {', '.join(map(str, others))} and cannot become "
                    f"{dtype}; load the model in that dtype"
                )


@contextmanager
def _quiet() -> Iterator[None]:
    """Switch progress bars off within the context."""
    libraries = (diffusers_logging, transformers_logging)
    shown = [library for library in libraries if library.is_progress_bar_enabled()]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()
