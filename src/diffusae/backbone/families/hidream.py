"""HiDream: double-stream blocks, then single-stream blocks, with feed-forward layers of experts."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diffusae.backbone.adapters import Adapter, tokens_of
from diffusae.backbone.blocks import Block, Grid, Tokens
from diffusae.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

_KIND = "HiDreamBlock"


class HiDreamAdapter(Adapter):
    """Latents as pictures, in one batch [uncond, cond].

    The text of a block is [T5's tokens, Llama's last tokens, Llama's tokens of a layer that is the
    block's own]; what a block makes of the last part is dropped after it. Single-stream blocks hold
    [picture, text]. The picture's tokens are padded to those of the largest square picture if the
    picture is no square. The pipeline makes pictures of one area only, whatever size is asked for,
    and shifts its steps by that area.
    """

    family = "HiDream"
    denoisers = ("HiDreamImageTransformer2DModel",)
    pipelines = ("HiDreamImagePipeline",)
    blocks = {
        "double_stream_blocks": Block(
            _KIND,
            count="num_layers",
            picture=Tokens(output=0, within="before_text"),
            text=Tokens("encoder_hidden_states", output=1),
        ),
        "single_stream_blocks": Block(
            _KIND,
            count="num_single_layers",
            picture=Tokens(within="before_text"),
            text=Tokens(within="before_text"),
        ),
    }
    sign = -1
    rows_first = False
    pads = True
    padded = {"HiDreamImagePipeline": 128}

    @classmethod
    def most_text(cls, pipeline: str, own: int, text_tokens: int | None) -> int:
        """The most tokens of the text in a block."""
        return 3 * (text_tokens or cls.padded.get(pipeline, own))

    def text_lengths(self, given: Mapping[str, Any], rows: int) -> list[int]:
        t5, llama = given["encoder_hidden_states_t5"], given["encoder_hidden_states_llama3"]
        return [t5.shape[1] + 2 * llama.shape[2]] * rows

    def loaded(self, pipe: Any) -> None:
        if pipe.text_encoder_4 is None or pipe.tokenizer_4 is None:
            raise UserError(
                "this HiDream has no fourth text encoder, as its repository: put Llama 3.1 8B "
                "Instruct into the folders text_encoder_4 and tokenizer_4 of a copy, and name both "
                "in its model_index.json"
            )
        # The pipeline's own number is that of the published transformer
        pipe.default_sample_size = math.isqrt(math.prod(self.denoiser.config.max_resolution))

    def text_start(self, grid: Grid) -> int:
        """Where the text begins in a sequence with a picture of this grid."""
        height, width = grid
        return height * width if height == width else self._largest

    @property
    def _largest(self) -> int:
        """Positions of the largest square picture."""
        config = self.denoiser.config
        return math.prod(config.max_resolution) // config.patch_size**2

    def taken(self, given: Mapping[str, Any], rows: slice, batch: int) -> dict[str, Any]:
        llama = "encoder_hidden_states_llama3"  # [layers, rows, tokens, width]
        return {**super().taken(given, rows, batch), llama: given[llama][:, rows]}

    def size_fault(self, pipe: Any, height: int, width: int) -> str | None:
        side = pipe.default_sample_size * pipe.vae_scale_factor
        made, last = _made(side, pipe.vae_scale_factor, height, width), (height, width)
        if made == last:
            return None
        while made != last:
            made, last = _made(side, pipe.vae_scale_factor, *made), made
        return (
            f"{self.family} makes pictures of {side} x {side} pixels or of nearly that area, and "
            f"changes height={height} and width={width}; give a size that it keeps, such as "
            f"{made[0]} and {made[1]}"
        )

    def schedule(self, scheduler: Any, steps: int, positions: int) -> Tensor:
        own = copy.deepcopy(scheduler)
        # The pipeline's own numbers, not the scheduler's: 256 positions give 0.5, 4096 give 1.15.
        mu = 0.5 + (self._largest - 256) * (1.15 - 0.5) / (4096 - 256)
        multistep = type(own).__name__ == "UniPCMultistepScheduler"
        own.set_timesteps(steps, **({} if multistep else {"mu": mu}))
        return own.timesteps

    def words(self, pipe: Any, text_tokens: int | None) -> tuple[Any, int]:
        own = pipe.tokenizer_3.model_max_length
        return pipe.tokenizer_3, min(own, self.tokens(type(pipe), own, text_tokens))

    def prompt_tokens(
        self, pipe: Any, prompt: str, text_tokens: int | None
    ) -> dict[int, str] | None:
        """T5's, and Llama's twice."""
        tokenizer, first = self.words(pipe, text_tokens)
        own = pipe.tokenizer_4.model_max_length
        count = min(own, self.tokens(type(pipe), own, text_tokens))
        named = tokens_of(tokenizer, prompt, first)
        for start in (first, first + count):
            named |= tokens_of(pipe.tokenizer_4, prompt, count, first=start)
        return named


def _made(side: int, scale: int, height: int, width: int) -> tuple[int, int]:
    """The size that the pipeline makes of a size that is asked for: the area of a square of `side`
    pixels, in whole patches of 2 x 2 latent entries of `scale` pixels.

    Example: 1024 x 1536 becomes 832 x 1248 with side=1024 and scale=8.
    """
    unit, factor = 2 * scale, math.sqrt(side**2 / (width * height))
    return int(height * factor // unit * unit), int(width * factor // unit * unit)
