"""The miniature's tokenizer: CLIP's class with every word of the world as one token."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_TOKENS = 32


def build_tokenizer(words: Iterable[str]) -> CLIPTokenizer:
    """A `CLIPTokenizer` that knows `words` as single tokens and splits any other text.

    Byte-pair merges are learned from the words alone, until every word is one token.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(models.BPE(unk_token=END, end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=10_000,
        min_frequency=1,
        end_of_word_suffix="</w>",
        show_progress=False,
        initial_alphabet=alphabet,
    )
    learner.train_from_iterator(sorted(set(words)), trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    joined = dict.fromkeys(first + second for first, second in merges)
    letters = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    tokens = dict.fromkeys([*letters, *joined, START, END])
    build: Any = CLIPTokenizer  # its types know file names only
    return build(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=MAX_TOKENS,
    )
