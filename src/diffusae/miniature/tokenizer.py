"""The miniature's tokenizer: CLIP's class with every word of the world as one token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_TOKENS = 32


def build_tokenizer(words: Iterable[str]) -> CLIPTokenizer:
    """A `CLIPTokenizer` that knows `words` as single tokens and splits any other text.

    Byte-pair merges are learned from the words alone, until every word is one token.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = learned_merges(words)
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


def learned_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, the most frequent pair first, until every word is one token.

    Of equally frequent pairs the first in the alphabet is taken, so the same words always give the
    same merges. (Those of the library's own trainer change from run to run.)
    """
    pieces = [[*word[:-1], f"{word[-1]}</w>"] for word in sorted(set(words))]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for word in pieces for pair in pairwise(word)):
        first, second = best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word in pieces:
            while best in (joints := list(pairwise(word))):
                place = joints.index(best)
                word[place : place + 2] = [first + second]
    return merges
