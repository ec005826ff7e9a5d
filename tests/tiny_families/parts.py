"""What the tiny pipelines of all families share: 64 px pictures, latents 8 x 8, d_in 32 to 64, text
encoders and tokenizers made on the spot."""

import string
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import T5Config, T5EncoderModel, T5Tokenizer

from tiny_pipeline import vae

T5_TOKENS = 24
PIXELS = 64
GUIDED = {"guidance": 5.0}


@dataclass(frozen=True)
class Family:
    """How a family is made, and what is to be found in it."""

    make: Callable[[], Any]
    blocks: dict[str, tuple[str, tuple[int, int], int]]
    """{block: (path, grid at 64 x 64 px, d_in)}"""
    asked: dict[str, Any]
    """What `generate` is told for both branches of guidance."""
    scheduler: str = "keep"

    @property
    def hookpoints(self) -> dict[str, str | int]:
        return {block: path for block, (path, *_) in self.blocks.items()}

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


def places(*paths: str, grid: tuple[int, int] = (4, 4), d_in: int = 32) -> dict[str, Any]:
    """The blocks `down`, `mid` and `up` at three paths of a transformer."""
    return {b: (path, grid, d_in) for b, path in zip(("down", "mid", "up"), paths, strict=True)}
