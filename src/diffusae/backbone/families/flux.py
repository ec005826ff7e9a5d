"""FLUX.1: double-stream blocks, then single-stream blocks that also return both streams."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diffusae.backbone.adapters import Adapter, shift, tokens_of
from diffusae.backbone.blocks import Block, Grid, Tokens

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_BOTH = {"picture": Tokens(output=1), "text": Tokens("encoder_hidden_states", output=0)}


class FluxAdapter(Adapter):
    """Latents in packs of 2 x 2, time from 0 to 1, guidance as an input of the model.

    A second, unconditional pass runs only with `true_cfg_scale` above 1 and a negative prompt. The
    text's tokens are T5's: the CLIP encoder gives one pooled vector alone.
    """

    family = "FLUX.1"
    denoisers = ("FluxTransformer2DModel",)
    pipelines = ("FluxPipeline",)
    with_a_picture = (
        "FluxImg2ImgPipeline",
        "FluxInpaintPipeline",
        "FluxControlPipeline",
        "FluxControlImg2ImgPipeline",
        "FluxControlInpaintPipeline",
        "FluxControlNetPipeline",
        "FluxControlNetImg2ImgPipeline",
        "FluxControlNetInpaintPipeline",
        "FluxFillPipeline",
    )
    layout = "two_passes"
    blocks = {
        "transformer_blocks": Block("FluxTransformerBlock", count="num_layers", **_BOTH),
        "single_transformer_blocks": Block(
            "FluxSingleTransformerBlock", count="num_single_layers", **_BOTH
        ),
    }
    pads = True
    padded = {"FluxPipeline": 512}
    time = (0.0, 0.001)

    @classmethod
    def patch_of(cls, config: Mapping[str, Any]) -> int:
        return 2

    @property
    def latent_channels(self) -> int:
        return self.denoiser.config.in_channels // 4

    def size(self, given: Mapping[str, Any]) -> Grid:
        height, width = (given["img_ids"].reshape(-1, 3)[:, 1:].amax(dim=0) + 1).int().tolist()
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

    def schedule(self, scheduler: Any, steps: int, positions: int) -> Tensor:
        import torch

        own = copy.deepcopy(scheduler)
        mu = shift(own, positions, 1.15)
        if own.config.get("use_flow_sigmas"):
            own.set_timesteps(steps, mu=mu)
        else:
            sigmas = torch.linspace(1, 1 / steps, steps, dtype=torch.float64).numpy()
            own.set_timesteps(sigmas=sigmas, mu=mu)
        return own.timesteps

    def prompt_tokens(
        self, pipe: Any, prompt: str, text_tokens: int | None
    ) -> dict[int, str] | None:
        tokenizer, limit = self.words(pipe, text_tokens)
        return tokens_of(tokenizer, prompt, limit)

    def words(self, pipe: Any, text_tokens: int | None) -> tuple[Any, int]:
        own = pipe.tokenizer.model_max_length
        return pipe.tokenizer_2, self.tokens(type(pipe), own, text_tokens)
