"""Wan 2.1 and 2.2: videos. Blocks over the stream of all frames, which attends to the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusae.backbone.adapters import Adapter
from diffusae.backbone.blocks import Block, Grid
from diffusae.errors import UserError


class WanAdapter(Adapter):
    """Latents are [n, channels, frames, h, w], in patches of 1 x 2 x 2.

    Wan 2.2 A14B has a second denoiser (`transformer_2`) for the steps of low noise. Hooks follow
    one denoiser, so such a pipeline is refused. Wan 2.2 TI2V gives the denoiser the same time for
    every position.
    """

    family = "Wan"
    denoisers = ("WanTransformer3DModel",)
    videos = ("WanPipeline",)
    layout = "guided_passes"
    blocks = {"blocks": Block("WanTransformerBlock", count="num_layers")}
    pads = True
    padded = {"WanPipeline": 512}
    frames = 21

    @classmethod
    def patch_of(cls, config: Mapping[str, Any]) -> int:
        return config["patch_size"][-1]

    def size(self, given: Mapping[str, Any]) -> Grid:
        sides = given[self.varying[0]].shape[-3:]
        frames, height, width = (
            side // patch
            for side, patch in zip(sides, self.denoiser.config.patch_size, strict=True)
        )
        return frames, height, width

    def check(self, pipe: Any) -> None:
        if getattr(pipe, "transformer_2", None) is not None:
            ratio = pipe.config.get("boundary_ratio")
            raise UserError(
                f"{type(pipe).__name__} runs a second denoiser (transformer_2) at the steps of low "
                f"noise (boundary_ratio={ratio}), and hooks follow one denoiser alone; make a "
                "pipeline of one: WanPipeline(**{**pipe.components, 'transformer_2': None})"
            )
