"""Loading a text-to-image pipeline from a folder or the hub: safetensors only, no foreign code."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import diffusers.utils.logging as diffusers_logging
import torch
import transformers.utils.logging as transformers_logging
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel as UNet2D
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from diffusae.backbone.component_configs import REMEDY, require_weights
from diffusae.backbone.families.table import adapter_of, refuse_videos, require_adapter
from diffusae.backbone.hookpoints import COMPONENTS
from diffusae.backbone.lora import load_lora
from diffusae.backbone.noising import is_flow_matching
from diffusae.backbone.offloading import compute_in_slices, modules_of, offload, require_accelerator
from diffusae.backbone.placement import moved_steps
from diffusae.backbone.quantizing import (
    quantized_components,
    quantizing_options,
    refuse_stored_quantized,
    require_quantizers,
)
from diffusae.backbone.settings import Saving, SchedulerChoice
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
    lora: str | None = None,
    saving: Saving | None = None,
) -> DiffusionPipeline:
    """Load a diffusers pipeline that computes on `device` in `dtype`, without progress bars.

    Args:
        source: a folder in the diffusers layout, or a hub id ("owner/name").
        revision: branch, tag or commit of a hub id.
        variant: name of a set of weight files ("fp16").
        scheduler: "ddim" replaces the scheduler by DDIM on the same noise schedule; "keep" keeps
            it.
        log_snr_shift: how much higher the log-SNR of every step is (`placement.moved_steps`).
        lora: a safetensors file with a LoRA of this model.
        saving: offloading, slicing and quantised weights; None: every component is on `device`.

    Raises:
        UserError: the hub does not serve the model (the message names a folder that would), or the
            folder is no pipeline of pictures, has only pickled weights, or asks to run its own
            code; `saving` does not work with this model or on this machine.
    """
    saving, device = saving or Saving(), torch.device(device)
    require_accelerator(saving, device)
    require_quantizers(saving, device)
    if scheduler not in get_args(SchedulerChoice):
        raise unknown("scheduler", scheduler, get_args(SchedulerChoice))
    unused: dict[str, Any] = {} if safety_checker else dict.fromkeys(_UNUSED)
    with _quiet():
        folder = _folder_of(source, revision=revision, variant=variant, unused=unused)
        components = _checked_components(folder, unused, variant, saving)
        # Diffusers asks for what a folder says it lacks, such as Stable Diffusion 3's T5
        lacking = [name for name, entry in components.items() if entry == [None, None]]
        options: dict[str, Any] = {name: None for name in (*unused, *lacking) if name in components}
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
                **quantizing_options(folder, components, saving, dtype),
                **options,
            )
        except UserError:
            raise
        except Exception as error:  # a damaged folder may raise anything
            what = f"{folder} does not load as a diffusers pipeline: {first_line(error)}"
            raise UserError(what) from error
    if lora is not None:
        load_lora(pipe, lora)
    home = device if saving.offload == "none" else torch.device("cpu")
    _move(pipe, home, dtype, quantized=quantized_components(components, saving))
    adapter_of(pipe).loaded(pipe)
    if device.type == "cpu" and isinstance(pipe.components.get("unet"), UNet2D):
        pipe.components["unet"].to(memory_format=torch.channels_last)  # CPUs convolve faster so
    if scheduler == "ddim":
        pipe.scheduler = _ddim(pipe.scheduler)
    pipe.scheduler = moved_steps(pipe.scheduler, log_snr_shift)
    pipe.set_progress_bar_config(disable=True)
    compute_in_slices(pipe, saving)
    offload(pipe, saving.offload, device)
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


def _checked_components(
    folder: Path, unused: Collection[str], variant: str | None, saving: Saving
) -> dict[str, Any]:
    """The components that a folder declares, after all checks that need no weights in memory."""
    components = _read_index(folder)
    require_trusted(folder, components)
    require_adapter(components)
    refuse_videos(components)
    needed = sorted(components.keys() - set(unused))
    for name in needed:
        refuse_pickles(folder / name)
    _refuse_another_variant(folder, needed, variant)
    for name in needed:
        if not (saving.gguf and name in COMPONENTS):  # its weights are in that file
            refuse_stored_quantized(folder, name)
            require_weights(folder, name)
    return components


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
    if is_flow_matching(scheduler):
        raise UserError(
            f"{type(scheduler).__name__} has no noise schedule for DDIM (flow matching); set "
            "model.scheduler=keep"
        )
    ddim = DDIMScheduler.from_config(
        scheduler.config, clip_sample=scheduler.config.get("clip_sample", False)
    )
    assert isinstance(ddim, DDIMScheduler)
    return ddim


def _move(
    pipe: DiffusionPipeline, home: torch.device, dtype: torch.dtype, *, quantized: Collection[str]
) -> None:
    """Put every component on a device in a dtype, and check it. Quantised ones keep their dtype."""
    for name, module in modules_of(pipe).items():
        # Some libraries ignore `dtype` and load in the stored one.
        _ = module.to(home) if name in quantized else module.to(device=home, dtype=dtype)
    _check_dtype(pipe, dtype, quantized)


def _check_dtype(pipe: DiffusionPipeline, dtype: torch.dtype, quantized: Collection[str]) -> None:
    """`UserError` for mixed dtypes, which fail in the middle of a run or go unnoticed. Quantised
    components keep some parameters in float32 by design, and their stored numbers are no floats."""
    for name, component in modules_of(pipe).items():
        allowed = {dtype, torch.float32} if name in quantized else {dtype}
        others = {p.dtype for p in component.parameters() if p.is_floating_point()} - allowed
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
