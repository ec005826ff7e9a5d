"""CogView 4: blocks over the picture's stream and the text's, with the same weights for both."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

from diffusae.backbone.adapters import Adapter, tokens_of
from diffusae.backbone.blocks import Block, Tokens

if TYPE_CHECKING:
    from torch import Tensor


class CogView4Adapter(Adapter):
    """Latents as pictures; a pass for `cond`, then one for `uncond`.

    A block attends over one sequence and returns (picture, text). Prompts are padded on the left,
    to the longest of a call and on to a multiple of 16, and nothing hides the padding. The
    denoiser's time is that of evenly spaced steps, but their noise is shifted by the picture's
    size.
    """

    family = "CogView 4"
    denoisers = ("CogView4Transformer2DModel",)
    pipelines = ("CogView4Pipeline",)
    layout = "guided_passes"
    blocks = {
        "transformer_blocks": Block(
            "CogView4TransformerBlock",
            count="num_layers",
            picture=Tokens(output=0),
            text=Tokens("encoder_hidden_states", output=1),
        )
    }
    reads_text = False
    pads = True
    padded = {"CogView4Pipeline": 1024}

    def schedule(self, scheduler: Any, steps: int, positions: int) -> Tensor:
        import numpy as np

        own = copy.deepcopy(scheduler)
        most = own.config.num_train_timesteps
        timesteps = np.linspace(most, 1.0, steps).astype(np.int64).astype(np.float32)
        mu = _shift(own, positions)
        own.set_timesteps(timesteps=timesteps, sigmas=timesteps / most, mu=mu)
        return own.timesteps

    def sigma(self, scheduler: Any, timestep: float, positions: int) -> float:
        even = timestep / scheduler.config.num_train_timesteps
        if not scheduler.config.get("use_dynamic_shifting"):
            return scheduler.shift * even / (1 + (scheduler.shift - 1) * even)
        return float(scheduler.time_shift(_shift(scheduler, positions), 1.0, even))

    def prompt_tokens(
        self, pipe: Any, prompt: str, text_tokens: int | None
    ) -> dict[int, str] | None:
        """The last ones of the padded text. Not known of a tokenizer that pads on the right: the
        pipeline pads on the left then too."""
        if pipe.tokenizer.padding_side != "left":
            return None
        tokenizer, limit = self.words(pipe, text_tokens)
        tokens = tokens_of(tokenizer, prompt, limit).values()
        return {place - len(tokens): token for place, token in enumerate(tokens)}


def _shift(scheduler: Any, positions: int) -> float:
    """The shift mu, linear in the picture's side.

    Example with the published 256, 0.25 and 0.75: 4096 positions give 0.25 + 0.75 * 4 = 3.25.
    """
    get = scheduler.config.get
    side = math.sqrt(positions / get("base_image_seq_len", 256))
    return side * get("max_shift", 0.75) + get("base_shift", 0.25)
