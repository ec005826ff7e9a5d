"""What the tiny pipelines of all families share: 64 px pictures, latents 8 x 8, d_in 32 to 64, text
encoders and tokenizers made on the spot.

Nothing in a family's entry comes from the product's adapters: it says how the published pipeline
works, and the tests hold the adapters against it.
"""

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from tiny_pipeline import vae

T5_TOKENS = 24
PIXELS = 64
GUIDED = {"guidance": 5.0}


PictureOf = Callable[[Mapping[str, Any], Any], tuple[Tensor, Tensor]]
"""(a block's arguments by name, its output) -> the picture's stream before and after the block."""


def last_output(given: Mapping[str, Any], output: Any) -> tuple[Tensor, Tensor]:
    """The block takes the picture as `hidden_states`, and returns it alone or last."""
    return given["hidden_states"], output if isinstance(output, Tensor) else output[-1]


def unchanged(_pipe: Any, latents: Tensor) -> Tensor:
    return latents


def as_they_are(_pipe: Any, latents: Tensor, _height: int, _width: int) -> Tensor:
    return latents


@dataclass(frozen=True)
class Family:
    """How a family is made, and what is to be found in it."""

    make: Callable[[], Any]
    blocks: dict[str, tuple[str, tuple[int, ...], int]]
    """{block: (path, grid at 64 x 64 px, d_in)}; a video's grid is (frames, h, w)."""
    asked: dict[str, Any]
    """What `generate` is told for both branches of guidance."""
    scheduler: str = "keep"
    passes: tuple[tuple[str, ...], ...] = (("uncond", "cond"),)
    """The branches along the batch of every denoiser call of a guided step, in order."""
    unguided: dict[str, Any] = field(default_factory=lambda: {"guidance": 1.0})
    """What changes in `asked` for a run without an `uncond` branch."""
    call: dict[str, Any] = field(default_factory=dict)
    """Arguments of the pipeline's own call that mean what `asked` means, besides
    `guidance_scale`."""
    needs: dict[str, Any] = field(default_factory=dict)
    """What its call needs besides a prompt: a picture, or the length of a video. Only a call of the
    pipeline itself makes it."""
    picture: PictureOf = last_output
    """Where a block has the picture's tokens."""
    latents: tuple[int, ...] = (4, 8, 8)
    """Shape of a picture's latents at 64 x 64 px: channels, height and width; a video's have
    frames after the channels."""
    pack: Callable[[Any, Tensor], Tensor] = unchanged
    """(pipeline, first latents) -> the latents that its own call takes, by its own packing."""
    unpack: Callable[[Any, Tensor, int, int], Tensor] = as_they_are
    """(pipeline, the latents that its own call returns, height and width in pixels) -> latents, by
    its own unpacking."""
    empty_prompt_is_encoded: bool = True
    """Whether `uncond` is what the empty prompt gives; Stable Diffusion XL takes zeros."""
    attention: Literal["cross", "text_first", "picture_first"] | None = "cross"
    """How blocks attend to the text: in a layer of their own, or together with the picture, as one
    sequence with the text first or last. None: not in a layer that can be recorded."""
    registers: int = 0
    """Learned tokens before those of the text, where text and picture are one sequence."""
    strong: str = ""
    """Names of further parameters of the denoiser that read the text, as a regular expression: they
    are made strong, so that prompts and branches differ by more than rounding."""

    @property
    def has_uncond(self) -> bool:
        return any("uncond" in branches for branches in self.passes)

    @property
    def hookpoints(self) -> dict[str, str | int]:
        return {block: path for block, (path, *_) in self.blocks.items()}

    def grid(self, block: str, height: int, width: int) -> tuple[int, ...]:
        """A block's grid in a picture of another size than 64 x 64."""
        *frames, rows, columns = self.blocks[block][1]
        return (*frames, rows * height // PIXELS, columns * width // PIXELS)

    def latents_of(self, height: int, width: int) -> tuple[int, ...]:
        """The shape of a picture's latents at another size than 64 x 64."""
        *before, rows, columns = self.latents
        return (*before, rows * height // PIXELS, columns * width // PIXELS)

    def overrides(self, folder: Path) -> list[str]:
        """The configuration of the pipeline that lies in a folder."""
        values = {**self.asked, "source": folder, "height": PIXELS, "width": PIXELS, "steps": 3}
        values |= {f"hookpoints.{block}": path for block, path in self.hookpoints.items()}
        options = [f"model.{name}={value}" for name, value in values.items()]
        return ["debug=tiny", "model=custom", *options, f"paths.outputs={folder.parent}"]


def t5(width: int) -> Any:
    config: dict[str, Any] = {"vocab_size": len(t5_tokenizer()), "d_model": width, "d_kv": 8}
    config |= {"d_ff": 37, "num_layers": 2, "num_heads": 4, "pad_token_id": 0, "eos_token_id": 1}
    return T5EncoderModel(T5Config(**config))


def t5_tokenizer() -> Any:
    """Letters as tokens, and " cat" as one."""
    letters = [(letter, -3.0) for letter in string.ascii_lowercase]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocabulary: Any = [*special, *letters, ("▁cat", -1.0)]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=T5_TOKENS)


def family_vae(**options: Any) -> Any:
    return vae((8, 8, 16, 16), sample_size=PIXELS, **options)


def places(*paths: str, grid: tuple[int, ...] = (4, 4), d_in: int = 32) -> dict[str, Any]:
    """The blocks `down`, `mid` and `up` at three paths of a transformer."""
    return {b: (path, grid, d_in) for b, path in zip(("down", "mid", "up"), paths, strict=True)}
