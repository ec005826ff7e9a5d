"""Tiny language models as text encoders, and their tokenizers: bytes as tokens, `cat` and whole
words of prompt templates as one.
"""

import re
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    GlmConfig,
    GlmModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
)

WIDTH = 32
_BYTES = {letter: place for place, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_START, _END = "<|start|>", "<|endoftext|>"


def qwen_tokenizer(template: str = "", **options: Any) -> Any:
    """Of Qwen-Image and Z-Image, with a chat template. Words of `template` are one token."""
    vocabulary = _BYTES | {_END: len(_BYTES)}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], **options)
    tokenizer.chat_template = _CHAT
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return _with_words(tokenizer, template)


def gemma_tokenizer(template: str = "", **options: Any) -> Any:
    letters = [chr(code) for code in range(33, 127)]
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *letters]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    return _with_words(GemmaTokenizer(vocab=vocabulary, merges=[], **options), template)


def byte_tokenizer(**options: Any) -> Any:
    """Of Llama and GLM: a token comes before every prompt, also an empty one."""
    ends = {_END: len(_BYTES), _START: len(_BYTES) + 1}
    own = Tokenizer(models.BPE(vocab=_BYTES | ends, merges=[]))
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    own.decoder = decoders.ByteLevel()
    own.post_processor = processors.TemplateProcessing(
        single=f"{_START} $A", special_tokens=[(_START, ends[_START])]
    )
    options = {"bos_token": _START, "eos_token": _END, "pad_token": _END, **options}
    return _with_words(PreTrainedTokenizerFast(tokenizer_object=own, **options), "")


def _with_words(tokenizer: Any, template: str) -> Any:
    words = {"cat", *re.findall(r" ?\w+", template)}
    tokenizer.add_tokens(sorted(words))
    return tokenizer


def qwen_vl(tokenizer: Any) -> Any:
    """Qwen2.5-VL: a language model beside a small vision model, which never runs."""
    mrope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6}
    text = {**_sizes(tokenizer), "rope_parameters": mrope}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}
    vision |= {"out_hidden_size": WIDTH, "fullatt_block_indexes": [0]}
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    )


def qwen3(tokenizer: Any) -> Any:
    return Qwen3ForCausalLM(Qwen3Config(**_sizes(tokenizer), head_dim=16))


def gemma2(tokenizer: Any) -> Any:
    return Gemma2Model(Gemma2Config(**_sizes(tokenizer), head_dim=16, query_pre_attn_scalar=16))


def llama(tokenizer: Any) -> Any:
    return LlamaForCausalLM(LlamaConfig(**_sizes(tokenizer)))


def glm(tokenizer: Any) -> Any:
    return GlmModel(GlmConfig(**_sizes(tokenizer), head_dim=16))


def _sizes(tokenizer: Any) -> dict[str, Any]:
    sizes = {"hidden_size": WIDTH, "intermediate_size": 37, "num_hidden_layers": 3}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": len(tokenizer)}
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    return sizes | ends | {"pad_token_id": tokenizer.pad_token_id, "max_position_embeddings": 512}
