"""The text encoder of AuraFlow and Wan."""

from typing import Any

from transformers import UMT5Config, UMT5EncoderModel


def umt5(width: int, vocabulary: int) -> Any:
    config: dict[str, Any] = {"vocab_size": vocabulary, "d_model": width, "d_kv": 8, "d_ff": 37}
    config |= {"num_layers": 2, "num_heads": 4, "pad_token_id": 0, "eos_token_id": 1}
    return UMT5EncoderModel(UMT5Config(**config))
