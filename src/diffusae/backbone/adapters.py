"""What differs between kinds of text-to-image pipelines: how latents lie, which grid they make, how
a call is made.

Everything else (the loop, hooks, edits) is the same for all. `Adapter` serves Stable Diffusion 1,
2, XL and 3, PixArt and other pipelines whose denoiser takes latents as pictures; `FluxAdapter`
knows what FLUX does differently.
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
    """A pipeline whose denoiser takes latents as pictures, in patches of `patch` x `patch` where it
    is a transformer.

    Args:
        denoiser: the pipeline's U-Net or transformer; the meta device will do.
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
        """Latent entries that one position of the finest grid spans along each side."""
        return (
            1
            if hasattr(self.denoiser, "mid_block")
            else int(self.denoiser.config.get("patch_size") or 1)
        )

    @property
    def latent_channels(self) -> int:
        """Channels of the latents as the autoencoder knows them."""
        return self.denoiser.config.in_channels

    @property
    def varying(self) -> tuple[str, str]:
        """The arguments of the denoiser that change from step to step: latents and time."""
        return self._parameters[0], "timestep"

    def given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a denoiser call by name."""
        return dict(zip(self._parameters, args, strict=False)) | dict(kwargs)

    def size(self, given: Mapping[str, Any]) -> tuple[int, int]:
        """(h, w) of the finest grid of positions in a call with these arguments."""
        height, width = given[self._parameters[0]].shape[-2:]
        return height // self.patch, width // self.patch

    def timestep(self, pipe: Any, given: Mapping[str, Any], *, running: bool) -> Tensor | float:
        """The scheduler's own timestep of a denoiser call; `running`: made by a running call of the
        pipeline.
        """
        return given["timestep"]

    def time_argument(self, timestep: float, count: int) -> Tensor:
        """What the denoiser takes for `count` pictures at the scheduler's timestep."""
        return torch.full((count,), int(timestep) if float(timestep).is_integer() else timestep)

    def pack(self, latents: Float[Tensor, "n channels h w"]) -> Tensor:
        """Latents as the denoiser takes them."""
        return latents

    def unpack(self, latents: Tensor, height: int, width: int) -> Float[Tensor, "n channels h w"]:
        """The inverse of `pack`, for latents of this size; without channels that predict a variance
        (PixArt).
        """
        return latents[:, : self.latent_channels]

    def guidance(self, guidance: float, true_guidance: float | None, count: int) -> dict[str, Any]:
        """The arguments of a pipeline call for `count` pictures that set its guidance."""
        return {"guidance_scale": guidance}

    def schedule(self, scheduler: Any, steps: int, positions: int) -> Tensor:
        """The scheduler's own timesteps of a call of `steps` steps over `positions` of the finest
        grid.

        A flow-matching scheduler may shift them by the size of the picture. The scheduler is left
        as it is.
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
        """One pass of the denoiser, with what the pipeline gives it besides latents and time as
        `conditions`.
        """
        output = self.denoiser(
            **{
                **conditions,
                self._parameters[0]: self.pack(latents),
                "timestep": self.time_argument(timestep, len(latents)).to(latents.device),
                "return_dict": False,
            }
        )[0]
        return self.unpack(output, *latents.shape[-2:])

    def words(self, pipe: Any, text_tokens: int | None) -> tuple[Any, int]:
        """The tokenizer whose tokens the denoiser attends to first, and how many it pads to."""
        return pipe.tokenizer, self.tokens(type(pipe), pipe.tokenizer.model_max_length, text_tokens)

    def tokens(self, pipeline: type, own: int, text_tokens: int | None) -> int:
        """Tokens of a padded prompt: as asked, else as the pipeline's call pads, else the text
        encoder's `own` number.
        """
        if not self.pads or _TEXT_LIMIT not in inspect.signature(pipeline.__call__).parameters:
            # joint attention with a CLIP encoder in front (Stable Diffusion 3), or CLIP alone
            return own
        return text_tokens or inspect.signature(pipeline.__call__).parameters[_TEXT_LIMIT].default

    @property
    def pads(self) -> bool:
        """Whether the denoiser attends to prompts as the pipeline's call pads them; not with joint
        attention, where a CLIP encoder comes first.
        """
        blocks = getattr(self.denoiser, "transformer_blocks", ())
        return not any(getattr(getattr(each, "attn", None), "add_k_proj", None) for each in blocks)


class FluxAdapter(Adapter):
    """FLUX: latents in packs of 2 x 2, time from 0 to 1, guidance as an input of the model.

    A second pass for the unconditional branch runs only with `true_cfg_scale` above 1 and a
    negative prompt.
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
        """The pipeline's own, where it runs: the argument is a thousandth of it, rounded to the
        model's dtype.
        """
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
        return pipe.tokenizer_2, self.tokens(
            type(pipe), pipe.tokenizer.model_max_length, text_tokens
        )


def adapter_of(pipe: Any) -> Adapter:
    """The adapter of a pipeline; `UserError` for one without a denoiser."""
    return adapter_for(denoiser_of(pipe))


def adapter_for(denoiser: nn.Module) -> Adapter:
    """The adapter of a denoiser; of a compiled one, that of what it compiles."""
    denoiser = getattr(denoiser, "_orig_mod", denoiser)
    name = type(denoiser).__name__
    if name == "FluxTransformer2DModel":
        return FluxAdapter(denoiser)
    return (own_adapter(name) or Adapter)(denoiser)


def _shift(scheduler: Any, positions: int, max_shift: float) -> dict[str, float]:
    return (
        {"mu": _mu(scheduler, positions, max_shift)}
        if scheduler.config.get("use_dynamic_shifting")
        else {}
    )


def _mu(scheduler: Any, positions: int, max_shift: float) -> float:
    """How far a flow-matching schedule is shifted: linear in the number of positions (FLUX's and SD
    3's pipelines).
    """
    get = scheduler.config.get
    fewest, most = get("base_image_seq_len", 256), get("max_image_seq_len", 4096)
    least, greatest = get("base_shift", 0.5), get("max_shift", max_shift)
    slope = (greatest - least) / (most - fewest)
    return positions * slope + (least - slope * fewest)
