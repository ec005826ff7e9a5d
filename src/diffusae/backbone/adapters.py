"""What differs between text-to-image pipelines: layout of latents, grid, and arguments of a call.

All else (the loop, hooks, edits) is the same. `Adapter` serves Stable Diffusion 1, 2, XL and 3,
PixArt and other pipelines whose denoiser takes latents as pictures. `FluxAdapter` serves FLUX.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffusae.backbone.hookpoints import denoiser_of
from diffusae.backbone.plugin_models import own_adapter
from diffusae.backbone.settings import Layout

_TEXT_LIMIT = "max_sequence_length"


class Adapter:
    """A pipeline whose denoiser takes latents as pictures (a transformer in patches of `patch`
    squared).

    Args:
        denoiser: the pipeline's U-Net or transformer, on any device (also meta).
    """

    layout: ClassVar[Layout] = "one_batch"
    pipelines: ClassVar[tuple[str, ...]] = ()
    """Of a plug-in's adapter: the classes of pipelines that it serves."""

    def __init__(self, denoiser: Any) -> None:
        self.denoiser = denoiser
        parameters = list(inspect.signature(type(denoiser).forward).parameters)
        self._parameters = parameters[1:]  # without self

    @property
    def patch(self) -> int:
        """Side of one position of the finest grid, in latent entries."""
        is_unet = hasattr(self.denoiser, "mid_block")
        return 1 if is_unet else int(self.denoiser.config.get("patch_size") or 1)

    @property
    def latent_channels(self) -> int:
        """Channels of the autoencoder's latents."""
        return self.denoiser.config.in_channels

    @property
    def varying(self) -> tuple[str, str]:
        """Names of the denoiser's arguments that change with the step: latents and time."""
        return self._parameters[0], "timestep"

    def given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a denoiser call by name."""
        return dict(zip(self._parameters, args, strict=False)) | dict(kwargs)

    def size(self, given: Mapping[str, Any]) -> tuple[int, int]:
        """(h, w) of the finest grid of positions in a call with these arguments."""
        height, width = given[self._parameters[0]].shape[-2:]
        return height // self.patch, width // self.patch

    def timestep(self, pipe: Any, given: Mapping[str, Any], *, running: bool) -> Tensor | float:
        """The scheduler's timestep of a denoiser call. `running`: a pipeline call is running."""
        return given["timestep"]

    def time_argument(self, timestep: float, count: int) -> Tensor:
        """The denoiser's time argument for `count` pictures at the scheduler's timestep."""
        return torch.full((count,), int(timestep) if float(timestep).is_integer() else timestep)

    def pack(self, latents: Float[Tensor, "n channels h w"]) -> Tensor:
        """Latents in the denoiser's form."""
        return latents

    def unpack(self, latents: Tensor, height: int, width: int) -> Float[Tensor, "n channels h w"]:
        """The inverse of `pack`. Channels that predict a variance (PixArt) are dropped."""
        return latents[:, : self.latent_channels]

    def guidance(self, guidance: float, true_guidance: float | None, count: int) -> dict[str, Any]:
        """The guidance arguments of a pipeline call for `count` pictures."""
        return {"guidance_scale": guidance}

    def schedule(self, scheduler: Any, steps: int, positions: int) -> Tensor:
        """The scheduler's timesteps in a call of `steps` steps with `positions` on the finest grid.

        A flow-matching scheduler may shift them by the picture's size. `scheduler` is not changed.
        """
        own = copy.deepcopy(scheduler)
        own.set_timesteps(steps, **_shift(own, positions, 1.16))
        return own.timesteps

    def predict(
        self,
        conditions: Mapping[str, Any],
        latents: Float[Tensor, "n channels h w"],
        timestep: float,
    ) -> Float[Tensor, "n channels h w"]:
        """One pass of the denoiser. `conditions`: its arguments besides latents and time."""
        time = self.time_argument(timestep, len(latents)).to(latents.device)
        given = {**conditions, self._parameters[0]: self.pack(latents), "timestep": time}
        output = self.denoiser(**given | {"return_dict": False})[0]
        return self.unpack(output, *latents.shape[-2:])

    def words(self, pipe: Any, text_tokens: int | None) -> tuple[Any, int]:
        """The tokenizer whose tokens the denoiser attends to first, and its padded length."""
        return pipe.tokenizer, self.tokens(type(pipe), pipe.tokenizer.model_max_length, text_tokens)

    def tokens(self, pipeline: type, own: int, text_tokens: int | None) -> int:
        """Tokens of a padded prompt: `text_tokens`, the default of the pipeline's call, or `own`,
        the text encoder's number."""
        if not self.pads or _TEXT_LIMIT not in inspect.signature(pipeline.__call__).parameters:
            # CLIP alone, or joint attention with CLIP first (Stable Diffusion 3)
            return own
        return text_tokens or inspect.signature(pipeline.__call__).parameters[_TEXT_LIMIT].default

    @property
    def pads(self) -> bool:
        """Whether the denoiser attends to prompts as the pipeline's call pads them; not with joint
        attention, where a CLIP encoder comes first.
        """
        blocks = getattr(self.denoiser, "transformer_blocks", ())
        return not any(
            getattr(getattr(block, "attn", None), "add_k_proj", None) for block in blocks
        )


class FluxAdapter(Adapter):
    """FLUX: latents in packs of 2 x 2, time from 0 to 1, guidance as an input of the model.

    A second, unconditional pass runs only with `true_cfg_scale` above 1 and a negative prompt.
    """

    layout: ClassVar[Layout] = "two_passes"

    @property
    def pads(self) -> bool:
        return True  # T5's tokens; its CLIP encoder gives one pooled vector alone

    @property
    def patch(self) -> int:
        return 2

    @property
    def latent_channels(self) -> int:
        return self.denoiser.config.in_channels // 4

    def size(self, given: Mapping[str, Any]) -> tuple[int, int]:
        height, width = (given["img_ids"].reshape(-1, 3)[:, 1:].amax(dim=0) + 1).int().tolist()
        return height, width

    def timestep(self, pipe: Any, given: Mapping[str, Any], *, running: bool) -> Tensor | float:
        """The running pipeline's own value: the argument is a thousandth of it, in the model's
        dtype."""
        own = getattr(pipe, "_current_timestep", None) if running else None
        return given["timestep"] * 1000 if own is None else own

    def time_argument(self, timestep: float, count: int) -> Tensor:
        return torch.full((count,), timestep / 1000, dtype=self.denoiser.dtype)

    def pack(self, latents: Float[Tensor, "n channels h w"]) -> Tensor:
        split = latents.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # n c h 2 w 2
        return split.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def unpack(self, latents: Tensor, height: int, width: int) -> Float[Tensor, "n channels h w"]:
        split = latents.unflatten(1, (height // 2, width // 2)).unflatten(
            3, (-1, 2, 2)
        )  # n h w c 2 2
        return split.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)

    def guidance(self, guidance: float, true_guidance: float | None, count: int) -> dict[str, Any]:
        options: dict[str, Any] = {"guidance_scale": guidance}
        if true_guidance is not None and true_guidance > 1:
            options |= {"true_cfg_scale": true_guidance, "negative_prompt": [""] * count}
        return options

    def schedule(self, scheduler: Any, steps: int, positions: int) -> Tensor:
        own = copy.deepcopy(scheduler)
        if own.config.get("use_flow_sigmas"):
            own.set_timesteps(steps, mu=_mu(own, positions, 1.15))
        else:
            sigmas = torch.linspace(1, 1 / steps, steps, dtype=torch.float64).numpy()
            own.set_timesteps(sigmas=sigmas, mu=_mu(own, positions, 1.15))
        return own.timesteps

    def words(self, pipe: Any, text_tokens: int | None) -> tuple[Any, int]:
        own = pipe.tokenizer.model_max_length
        return pipe.tokenizer_2, self.tokens(type(pipe), own, text_tokens)


def adapter_of(pipe: Any) -> Adapter:
    """The adapter of a pipeline; `UserError` if it has no denoiser."""
    return adapter_for(denoiser_of(pipe))


def adapter_for(denoiser: nn.Module) -> Adapter:
    """The adapter of a denoiser, compiled or not."""
    denoiser = getattr(denoiser, "_orig_mod", denoiser)
    name = type(denoiser).__name__
    if name == "FluxTransformer2DModel":
        return FluxAdapter(denoiser)
    return (own_adapter(name) or Adapter)(denoiser)


def _shift(scheduler: Any, positions: int, max_shift: float) -> dict[str, float]:
    shifts = scheduler.config.get("use_dynamic_shifting")
    return {"mu": _mu(scheduler, positions, max_shift)} if shifts else {}


def _mu(scheduler: Any, positions: int, max_shift: float) -> float:
    """The shift of a flow-matching schedule, linear in the number of positions (as in FLUX and SD
    3).

    Example with the defaults and max_shift=1.15: 256 positions give 0.5, 4096 give 1.15.
    """
    get = scheduler.config.get
    fewest, most = get("base_image_seq_len", 256), get("max_image_seq_len", 4096)
    least, greatest = get("base_shift", 0.5), get("max_shift", max_shift)
    slope = (greatest - least) / (most - fewest)
    return positions * slope + (least - slope * fewest)
