"""LTX-Video: videos. Blocks over the stream of all frames, which attends to the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diffusae.backbone.adapters import Adapter, shift, shifted
from diffusae.backbone.blocks import Block, Grid
from diffusae.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class LTXAdapter(Adapter):
    """Latents are packed: one token for every entry, frame by frame. The numbers of frames, rows
    and columns are arguments of the denoiser.
    """

    family = "LTX-Video"
    denoisers = ("LTXVideoTransformer3DModel",)
    videos = ("LTXPipeline",)
    blocks = {"transformer_blocks": Block("LTXVideoTransformerBlock", count="num_layers")}
    pads = True
    padded = {"LTXPipeline": 128}
    frames = 21

    def size(self, given: Mapping[str, Any]) -> Grid:
        match given:
            case {"num_frames": int(frames), "height": int(height), "width": int(width)}:
                return frames, height, width
        raise UserError(
            "the denoiser was called without num_frames, height and width, so the grid of its "
            "positions is not known; use LTXPipeline"
        )

    def pack(self, latents: Float[Tensor, "n channels frames h w"]) -> Tensor:
        return latents.flatten(2).transpose(1, 2)

    def unpack(
        self, latents: Tensor, height: int, width: int
    ) -> Float[Tensor, "n channels frames h w"]:
        return latents.transpose(1, 2).unflatten(2, (-1, height, width))

    def schedule(self, scheduler: Any, steps: int, positions: int) -> Tensor:
        return shifted(scheduler, steps, shift(scheduler, positions, 1.15))
