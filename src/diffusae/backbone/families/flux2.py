"""FLUX.2 dev and klein: double-stream blocks, then single-stream blocks over [text, picture]."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from diffusae.backbone.blocks import Block, Tokens
from diffusae.backbone.families.flux import DOUBLE, FluxAdapter
from diffusae.backbone.prompt_templates import Templated
from diffusae.backbone.settings import Layout

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

SINGLE = Tokens(within="after_text")
"""The one sequence of a single-stream block: the text, the picture, then given pictures."""

_MARK = "\ue000"
"""A character of no script, in the place of a prompt in its template."""


class Flux2Adapter(FluxAdapter):
    """FLUX.1's packs of 2 x 2, which the autoencoder normalises by a batch norm, and time from 0 to
    1. Dev takes guidance as an input. Klein runs `cond` and `uncond` in two passes, except where
    the pipeline is distilled to few steps.

    The text's tokens are those of a chat template around the prompt (Mistral in dev, Qwen3 in
    klein).
    """

    family = "FLUX.2"
    denoisers = ("Flux2Transformer2DModel",)
    pipelines = ("Flux2Pipeline", "Flux2KleinPipeline")
    with_a_picture = ("Flux2KleinInpaintPipeline",)
    layout = "none"
    blocks = {
        "transformer_blocks": Block("Flux2TransformerBlock", count="num_layers", **DOUBLE),
        "single_transformer_blocks": Block(
            "Flux2SingleTransformerBlock", count="num_single_layers", picture=SINGLE, text=SINGLE
        ),
    }
    padded = {"Flux2Pipeline": 512, "Flux2KleinPipeline": 512}

    @classmethod
    def layout_of(cls, pipeline: str, config: Mapping[str, Any]) -> Layout:
        guided = pipeline.startswith("Flux2Klein") and not config.get("is_distilled")
        return "guided_passes" if guided else "none"

    def pack(self, latents: Float[Tensor, "n channels h w"]) -> Tensor:
        """As pictures of packs: the pipeline makes the denoiser's sequence of them itself."""
        height, width = (side // 2 for side in latents.shape[-2:])
        return super().pack(latents).transpose(1, 2).unflatten(2, (height, width))

    def fed(self, latents: Float[Tensor, "n channels h w"]) -> Tensor:
        return super().pack(latents)

    def unpack(self, latents: Tensor, height: int, width: int) -> Float[Tensor, "n channels h w"]:
        sequence = latents.flatten(2).transpose(1, 2) if latents.ndim == 4 else latents
        return super().unpack(sequence, height, width)

    def guidance(self, guidance: float, true_guidance: float | None, count: int) -> dict[str, Any]:
        return {"guidance_scale": guidance}

    def mu(self, scheduler: Any, steps: int, positions: int) -> float:
        from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

        return compute_empirical_mu(positions, steps)

    def words(self, pipe: Any, text_tokens: int | None) -> tuple[Any, int]:
        options: dict[str, Any] = {}
        if hasattr(pipe, "system_message"):
            render = partial(_mistral, pipe.tokenizer, pipe.system_message)
            options = {"add_special_tokens": False}  # the template has its own
        else:
            render = partial(_qwen3, pipe.tokenizer)
        before, _, after = render(_MARK).partition(_MARK)
        own = getattr(pipe.tokenizer, "tokenizer", pipe.tokenizer)  # of a processor, or itself
        limit = self.tokens(type(pipe), pipe.tokenizer_max_length, text_tokens)
        return Templated(own, before, after, **options), limit


def _mistral(processor: Any, system_message: str, prompt: str) -> str:
    """The text that `Flux2Pipeline` encodes for a prompt."""
    from diffusers.pipelines.flux2.pipeline_flux2 import format_input

    messages = format_input(prompts=[prompt], system_message=system_message)
    return processor.apply_chat_template(messages, add_generation_prompt=False, tokenize=False)[0]


def _qwen3(tokenizer: Any, prompt: str) -> str:
    """The text that `Flux2KleinPipeline` encodes for a prompt."""
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
    )
