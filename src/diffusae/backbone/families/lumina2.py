"""Lumina 2: one sequence that holds the text, then the picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diffusae.backbone.adapters import Adapter, shift, shifted, tokens_of
from diffusae.backbone.blocks import Block, Tokens
from diffusae.backbone.passes import Passes, PassesOf, begun_steps, guided_passes
from diffusae.backbone.prompt_templates import Templated

if TYPE_CHECKING:
    from torch import Tensor

_KIND = "Lumina2TransformerBlock"


class Lumina2Adapter(Adapter):
    """Latents as pictures, time from 0 (noise) to 1; a pass for `cond`, then one for `uncond`.

    In `layers` the picture begins where a row's text ends, by its mask: rows differ. The padding is
    at the end. `noise_refiner` holds the picture alone, `context_refiner` the padded text. The
    pipeline puts a system prompt before the prompt, but not before the negative prompt.
    """

    family = "Lumina 2"
    denoisers = ("Lumina2Transformer2DModel",)
    pipelines = ("Lumina2Pipeline",)
    layout = "guided_passes"
    blocks = {
        "noise_refiner": Block(_KIND, count="num_refiner_layers"),
        "context_refiner": Block(
            _KIND, count="num_refiner_layers", picture=None, text=Tokens(within="after_text")
        ),
        "layers": Block(
            _KIND,
            count="num_layers",
            picture=Tokens(within="after_text"),
            text=Tokens(within="after_text"),
        ),
    }
    sign = -1
    reads_text = False
    pads = True
    padded = {"Lumina2Pipeline": 256}
    time = (1.0, -0.001)

    @classmethod
    def passes(cls, pipeline: str) -> PassesOf:
        return _passes

    @classmethod
    def width(cls, config: Mapping[str, Any]) -> int:
        return config["hidden_size"]

    def text_lengths(self, given: Mapping[str, Any], rows: int) -> list[int]:
        return given["encoder_attention_mask"].sum(dim=1).tolist()

    def schedule(self, scheduler: Any, steps: int, positions: int) -> Tensor:
        # The pipeline takes the number of latent channels for that of the positions
        return shifted(scheduler, steps, shift(scheduler, self.latent_channels, 1.15))

    def words(self, pipe: Any, text_tokens: int | None) -> tuple[Any, int]:
        own = pipe.tokenizer.model_max_length
        before = f"{pipe.system_prompt} <Prompt Start> "
        return Templated(pipe.tokenizer, before), self.tokens(type(pipe), own, text_tokens)

    def prompt_tokens(
        self, pipe: Any, prompt: str, text_tokens: int | None
    ) -> dict[int, str] | None:
        """The empty text is the negative prompt, which has no system prompt before it."""
        tokenizer, limit = self.words(pipe, text_tokens)
        return tokens_of(tokenizer if prompt else pipe.tokenizer, prompt, limit)


def _passes(pipe: Any, given: Mapping[str, Any]) -> Passes:
    """No guidance in the steps after the share `cfg_trunc_ratio` of them."""
    share = (begun_steps(pipe.scheduler) + 1) / pipe.num_timesteps
    return guided_passes(pipe, given)[: 1 if share > given["cfg_trunc_ratio"] else None]
