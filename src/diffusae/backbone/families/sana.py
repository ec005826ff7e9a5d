"""Sana and Sana Sprint: blocks over the picture's stream, with linear attention, which attends to
the text.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diffusae.backbone.adapters import Adapter
from diffusae.backbone.blocks import Block
from diffusae.backbone.rewritten import RewrittenPrompts
from diffusae.backbone.settings import Layout

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_MIDDLE = 1.3
"""Time of the second of two steps of Sprint."""


class SanaAdapter(Adapter):
    """Latents of 32 pixels an entry (AutoencoderDC). The prompt follows an instruction, of which
    the denoiser sees the first token and the last (`RewrittenPrompts`).

    Sprint is distilled: guidance is an input (`guidance_embeds`), and there is no `uncond`. Its
    scheduler follows TrigFlow: x_t = cos(t) x_0 + sin(t) noise, t from pi/2 to 0. The denoiser gets
    s = sin(t) / (cos(t) + sin(t)) as its time, and x_t / (cos(t) + sin(t)) = (1 - s) x_0 + s noise:
    flow matching at sigma = s.
    """

    family = "Sana"
    denoisers = ("SanaTransformer2DModel",)
    pipelines = ("SanaPipeline", "SanaSprintPipeline")
    blocks = {"transformer_blocks": Block("SanaTransformerBlock", count="num_layers")}
    pads = True
    padded = {"SanaPipeline": 300, "SanaSprintPipeline": 300}

    @classmethod
    def layout_of(cls, pipeline: str, config: Mapping[str, Any]) -> Layout:
        return "none" if "Sprint" in pipeline else "one_batch"

    @property
    def distilled(self) -> bool:
        """Whether this is Sprint's denoiser."""
        return bool(self.denoiser.config.guidance_embeds)

    def timestep(
        self, pipe: Any, given: Mapping[str, Any], *, running: bool
    ) -> tuple[float, float]:
        value, error = super().timestep(pipe, given, running=running)
        if self.distilled:
            return math.atan2(value, 1 - value), 8 * error
        scale = self.denoiser.config.timestep_scale
        return value / scale, error / scale

    def time_argument(self, timestep: float, count: int) -> Tensor:
        """In float32 whatever the denoiser's dtype, as the pipelines give it."""
        import torch

        if self.distilled:
            t = torch.full((count,), timestep)
            return torch.sin(t) / (torch.cos(t) + torch.sin(t))
        return torch.full((count,), timestep * self.denoiser.config.timestep_scale)

    def schedule(self, scheduler: Any, steps: int, positions: int) -> Tensor:
        if not self.distilled:
            return super().schedule(scheduler, steps, positions)
        own = copy.deepcopy(scheduler)
        own.set_timesteps(steps, intermediate_timesteps=_MIDDLE if steps == 2 else None)
        return own.timesteps[:-1]

    def sigma(self, scheduler: Any, timestep: float, positions: int) -> float | None:
        """Example: Sprint's, at t = pi / 4, is a half."""
        if not self.distilled:
            return None
        return math.sin(timestep) / (math.cos(timestep) + math.sin(timestep))

    def stepping(self, steps: int) -> dict[str, Any]:
        """Sprint's own call takes a middle time of two steps alone."""
        return {"intermediate_timesteps": None} if self.distilled and steps != 2 else {}

    def finished(
        self, pipe: Any, latents: Tensor, height: int, width: int
    ) -> Float[Tensor, "n channels h w"]:
        """Sprint's call keeps latents times the deviation of its data."""
        clean = super().finished(pipe, latents, height, width)
        return clean / pipe.scheduler.config.sigma_data if self.distilled else clean

    def words(self, pipe: Any, text_tokens: int | None) -> tuple[Any, int]:
        tokenizer, limit = super().words(pipe, text_tokens)
        return RewrittenPrompts.instructed(tokenizer, type(pipe), limit), limit
