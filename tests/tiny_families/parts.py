"""Parts that the tiny pipelines of several families share: T5 and the autoencoder."""

import string
from typing import Any

from transformers import T5Config, T5EncoderModel, T5Tokenizer

import tiny_pipeline
from tiny_families.family import PIXELS, T5_TOKENS


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


def vae(**options: Any) -> Any:
    """For pictures of 64 px: latents of 4 channels, 8 pixels an entry."""
    return tiny_pipeline.vae((8, 8, 16, 16), sample_size=PIXELS, **options)
