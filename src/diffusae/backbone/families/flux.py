"""FLUX.1: double-stream blocks, then single-stream blocks that also return both streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diffusae.backbone.adapters import Adapter, shift, shifted, tokens_of
from diffusae.backbone.blocks import Block, Grid, Tokens
from diffusae.backbone.settings import Layout
from diffusae.errors import UserError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

DOUBLE = {
    "picture": Tokens(output=1, within="before_text"),
    "text": Tokens("encoder_hidden_states", output=0),
}
"""The streams of a double-stream block. The tokens of given pictures follow the picture's own."""
_UNGUIDED = (
    "FluxControlPipeline",
    "FluxControlImg2ImgPipeline",
    "FluxControlInpaintPipeline",
    "FluxControlNetImg2ImgPipeline",
    "FluxControlNetInpaintPipeline",
    "FluxFillPipeline",
)
"""Pipelines without a true guidance scale."""


class FluxAdapter(Adapter):
    """Latents in packs of 2 x 2, time from 0 to 1, guidance as an input of the model.

    A second, unconditional pass runs only with `true_cfg_scale` above 1 and a negative prompt. The
    text's tokens are T5's: the CLIP encoder gives one pooled vector alone. Control and Fill put the
    channels of a given picture beside those of the latents; Kontext puts its tokens after theirs.
    """

    family = "FLUX.1"
    denoisers = ("FluxTransformer2DModel",)
    pipelines = ("FluxPipeline", "FluxKontextPipeline")
    with_a_picture = (
        "FluxImg2ImgPipeline",
        "FluxInpaintPipeline",
        "FluxControlNetPipeline",
        "FluxKontextInpaintPipeline",
        "FluxControlPipeline",
        "FluxControlImg2ImgPipeline",
        "FluxControlInpaintPipeline",
        "FluxControlNetImg2ImgPipeline",
        "FluxControlNetInpaintPipeline",
        "FluxFillPipeline",
    )
    layout = "two_passes"
    blocks = {
        "transformer_blocks": Block("FluxTransformerBlock", count="num_layers", **DOUBLE),
        "single_transformer_blocks": Block(
            "FluxSingleTransformerBlock", count="num_single_layers", **DOUBLE
        ),
    }
    pads = True
    padded = {"FluxPipeline": 512, "FluxKontextPipeline": 512}
    time = (0.0, 0.001)

    @classmethod
    def layout_of(cls, pipeline: str, config: Mapping[str, Any]) -> Layout:
        return "none" if pipeline in _UNGUIDED else cls.layout

    @classmethod
    def patch_of(cls, config: Mapping[str, Any]) -> int:
        return 2

    @property
    def latent_channels(self) -> int:
        config = self.denoiser.config  # its input may hold a given picture's channels too
        return (config.out_channels or config.in_channels) * config.patch_size**2 // 4

    def size(self, given: Mapping[str, Any]) -> Grid:
        """By the ids (image, row, column, ...) of the tokens: image 0 is the generated picture."""
        ids = given["img_ids"].flatten(0, -2)[: given["hidden_states"].shape[1]].cpu()
        own = ids[ids[:, 0] == 0]
        height, width = (own[:, 1:3].amax(dim=0) + 1).int().tolist()
        if len(own) != height * width or ids[: len(own), 0].any():
            raise UserError(
                f"{len(own)} of the denoiser's tokens are the picture's, which are not the first "
                f"ones or no grid of {height} x {width}; use one of the pipelines in docs/models.md"
            )
        return height, width

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

    def mu(self, scheduler: Any, steps: int, positions: int) -> float:
        """The shift of the schedule by the picture's size."""
        return shift(scheduler, positions, 1.15)

    def schedule(self, scheduler: Any, steps: int, positions: int) -> Tensor:
        return shifted(scheduler, steps, self.mu(scheduler, steps, positions))

    def prompt_tokens(
        self, pipe: Any, prompt: str, text_tokens: int | None
    ) -> dict[int, str] | None:
        tokenizer, limit = self.words(pipe, text_tokens)
        return tokens_of(tokenizer, prompt, limit)

    def words(self, pipe: Any, text_tokens: int | None) -> tuple[Any, int]:
        own = pipe.tokenizer.model_max_length
        return pipe.tokenizer_2, self.tokens(type(pipe), own, text_tokens)
