"""Z-Image: one sequence that holds the picture, then the caption."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diffusae.backbone.adapters import Adapter, shift, tokens_of
from diffusae.backbone.blocks import Block, Grid, Tokens
from diffusae.backbone.passes import UNGUIDED, Passes, PassesOf, begun_steps, cond_first
from diffusae.backbone.prompt_templates import Templated

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_KIND = "ZImageTransformerBlock"
_PADDED_TO = 32
"""The picture's and the caption's tokens are padded to a multiple of it, one by one."""


class ZImageAdapter(Adapter):
    """Latents as a list of pictures with one frame, time from 0 (noise) to 1.

    The batch under guidance is [cond, uncond], and guidance runs at any scale above 0: the scale of
    other models less 1. The Turbo model runs without. `layers` hold [picture, padding, caption,
    padding] in every row; `noise_refiner` holds the picture alone, `context_refiner` the caption.
    """

    family = "Z-Image"
    denoisers = ("ZImageTransformer2DModel",)
    pipelines = ("ZImagePipeline",)
    with_a_picture = (
        "ZImageImg2ImgPipeline",
        "ZImageInpaintPipeline",
        "ZImageControlNetPipeline",
        "ZImageControlNetInpaintPipeline",
    )
    layout = "cond_first"
    blocks = {
        "noise_refiner": Block(
            _KIND, count="n_refiner_layers", picture=Tokens("x", within="before_text")
        ),
        "context_refiner": Block(
            _KIND, count="n_refiner_layers", picture=None, text=Tokens("x", within="after_text")
        ),
        "layers": Block(
            _KIND,
            count="n_layers",
            picture=Tokens("x", within="before_text"),
            text=Tokens("x", within="before_text"),
        ),
    }
    sign = -1
    rows_first = False
    reads_text = False
    pads = True
    padded = {"ZImagePipeline": 512}
    time = (1.0, -0.001)

    @classmethod
    def passes(cls, pipeline: str) -> PassesOf:
        return _passes

    @classmethod
    def width(cls, config: Mapping[str, Any]) -> int:
        return config["dim"]

    @classmethod
    def patch_of(cls, config: Mapping[str, Any]) -> int:
        return config["all_patch_size"][0]

    def size(self, given: Mapping[str, Any]) -> Grid:
        height, width = given["x"][0].shape[-2:]
        return height // self.patch, width // self.patch

    def text_lengths(self, given: Mapping[str, Any], rows: int) -> list[int]:
        return [len(caption) for caption in given["cap_feats"]]

    def text_start(self, grid: Grid) -> int:
        """Where the caption begins in a sequence with a picture of this grid."""
        positions = math.prod(grid)
        return positions + -positions % _PADDED_TO

    def taken(self, given: Mapping[str, Any], rows: slice, batch: int) -> dict[str, Any]:
        return {**super().taken(given, rows, batch), **_rows(given, rows)}

    def fed(self, latents: Float[Tensor, "n channels h w"]) -> Any:
        return list(latents.unsqueeze(2))

    def predicted(self, output: Any, height: int, width: int) -> Float[Tensor, "n channels h w"]:
        import torch

        return self.sign * torch.stack(list(output)).squeeze(2)

    def schedule(self, scheduler: Any, steps: int, positions: int) -> Tensor:
        import torch

        own = copy.deepcopy(scheduler)
        sigmas = torch.linspace(1.0, 1 / steps, steps).tolist()  # float32, as the pipeline's
        own.set_timesteps(sigmas=sigmas, mu=shift(own, positions, 1.15))
        return own.timesteps

    def words(self, pipe: Any, text_tokens: int | None) -> tuple[Any, int]:
        mark = "\0"
        chat = pipe.tokenizer.apply_chat_template(
            [{"role": "user", "content": mark}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=True,
        )
        before, after = chat.split(mark)
        own = pipe.tokenizer.model_max_length
        made = Templated(pipe.tokenizer, before, after, padding_side="right")
        return made, self.tokens(type(pipe), own, text_tokens)  # the pipeline takes padding out

    def prompt_tokens(
        self, pipe: Any, prompt: str, text_tokens: int | None
    ) -> dict[int, str] | None:
        tokenizer, limit = self.words(pipe, text_tokens)
        return tokens_of(tokenizer, prompt, limit)


def _rows(given: Mapping[str, Any], rows: slice) -> dict[str, Any]:
    """Lists with one tensor a row, whose own first side is no batch."""
    return {name: given[name][rows] for name in ("x", "cap_feats") if name in given}


def _passes(pipe: Any, given: Mapping[str, Any]) -> Passes:
    """No guidance after the time `cfg_truncation`, as the pipeline's loop computes it."""
    limit = given.get("cfg_truncation")
    if limit is not None and float(limit) <= 1:
        timestep = float(pipe.scheduler.timesteps[begun_steps(pipe.scheduler)])
        if (1000 - timestep) / 1000 > float(limit):
            return (UNGUIDED,)
    return cond_first(pipe, given)
