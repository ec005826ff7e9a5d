"""The bytes of shards, before anything is collected: captions and settings are enough."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Int

from diffusae.activations.journal import read_journals, size_of
from diffusae.activations.schema import ATTENTION, Stream
from diffusae.activations.settings import ActivationSettings
from diffusae.activations.size import codes_size, npy_size, tar_size
from diffusae.activations.stored_numbers import stored_numbers
from diffusae.activations.subsampling import Subsampling
from diffusae.prompts.prompt_set import Prompt
from diffusae.study.settings import GridSettings
from diffusae.study.streams import groups_of, words_of
from diffusae.study.study import Study

TOKENS_A_WORD = 1.4
"""An estimate: the tokenizer is not loaded."""

PACKED = 0.82
"""Of a number of a code, as if its latents were drawn at random, for each position anew: simulated
with 10 and 20 of 5120. Real positions resemble their neighbours, and their codes take less.
"""

_AROUND = 2
"""Tokens before and after a text."""

_TOKEN_BYTES = 40
"""An estimate of the place and the letters of a token in both branches, in a sample's JSON."""

_TOKENIZERS = 2
"""Whose tokens are in a block's text stream, at most: CLIP's and T5's of Stable Diffusion 3."""

_TOKENS_OF_A_WORD = 2
"""An estimate, for the list of every word's tokens: the tokenizer is not loaded."""

ASSUMED_ACTIVE = 32
"""Active latents of a vector where the sparsity has no k; the training decides their number."""

_LABELS_BYTES = 150
"""An estimate of the labels and the name of a given picture in its sample."""


@dataclass(frozen=True, eq=False)
class Group:
    """One group of samples.

    Attributes:
        texts: bytes of every sample's JSON.
        tokens: of every text, an estimate.
        ragged: samples list the positions of their rows, as where some are tokens of a text.
        own_tokens, most_tokens: of the words of every caption, to which attention is stored; an
            estimate, and a bound.
    """

    texts: Int[np.ndarray, " n"]
    tokens: Int[np.ndarray, " n"]
    ragged: bool
    own_tokens: Int[np.ndarray, " n"]
    most_tokens: Int[np.ndarray, " n"]
    split: str

    def kept(self, stream: Stream, subsampling: Subsampling | None) -> Int[np.ndarray, " n"]:
        """Vectors of every sample."""
        most = stream.positions
        if subsampling is not None:
            most = subsampling.kept(self.split, most)
        return np.minimum(most, self.tokens) if stream.of_tokens else np.full(len(self.texts), most)


def groups_in(study: Study) -> list[Group]:
    """The study's pictures or texts in the groups that are collected together."""
    kind, of_text = study.kind, any(map(study.reads_text, GridSettings.of(study.cfg).blocks))
    ragged = kind == "text" or of_text

    def of(group: Sequence[Prompt]) -> Group:
        own, most = np.array([_word_tokens(prompt.text) for prompt in group]).T
        return Group(
            texts=np.array([_json_size(kind, prompt) for prompt in group])
            + (_TOKEN_BYTES * _TOKENIZERS * (own + _AROUND) if of_text else 0),
            tokens=(own + _AROUND) * (_TOKENIZERS if of_text else 1),
            ragged=ragged,
            own_tokens=own,
            most_tokens=most,
            split=group[0].split,
        )

    return [of(group) for group in groups_of(study.prompts, study.cfg.activations.group_size)]


def bytes_finished(root: Path) -> int:
    """Bytes of the finished groups of a collection, which a collecting stage leaves as they are."""
    return sum(
        shard.bytes
        for group in read_journals(root).values()
        for shard in group.shards
        if size_of(root / shard.path) == shard.bytes
    )


def stream_bytes(
    stream: Stream,
    groups: Sequence[Group],
    subsampling: Subsampling | None,
    bytes_per_number: int,
    *,
    expected: bool = False,
) -> int:
    """Bytes of a stream's shards, at most: the tokens of a caption are not known. With `expected`,
    they are estimated.
    """
    total = 0
    for group in groups:
        kept, width = group.kept(stream, subsampling), stream.d_in
        # "positions": [...], every number as long as the longest one.
        listed = 16 + kept * (len(str(stream.positions - 1)) + 2)
        if not group.ragged:
            listed[kept == stream.positions] = 0
        if stream.block == ATTENTION:
            tokens = group.own_tokens if expected else group.most_tokens
            width = np.minimum(tokens, stream.d_in)
            listed += 14 + width * (len(str(stream.d_in)) + 2)
        arrays = npy_size(0) + kept * bytes_per_number * width
        total += tar_size(np.concatenate([group.texts + listed, arrays]))
    return total


def code_bytes(
    study: Study, positions: int, groups: Sequence[Group], *, expected: bool = False
) -> int:
    """Bytes of a stream's codes in these groups, by every SAE of its cell, at most. With
    `expected`, codes are compressed as random ones are.
    """
    number = stored_numbers(ActivationSettings.of(study.cfg).dtype).read.itemsize
    known = [study.cfg.sae.k] if "k" in study.cfg.sae else [ASSUMED_ACTIVE]
    sizes = [
        codes_size(positions, active, d_sae=study.cfg.sae.d_sae, bytes_per_number=number)
        for active in GridSettings.of(study.cfg).k or known
    ]
    sizes = [round(PACKED * size) for size in sizes] if expected else sizes
    return sum(tar_size(np.full(len(group.texts), size)) for group in groups for size in sizes)


@lru_cache(maxsize=100_000)
def _word_tokens(text: str) -> tuple[int, int]:
    """Tokens of the words of a caption: an estimate, and a bound. Every token of a word has a byte
    of it, or marks its beginning.
    """
    words = re.findall(r"\w+", text)
    most = sum(1 + len(word.encode()) for word in words)
    return round(TOKENS_A_WORD * len(text.split())), most


def _json_size(kind: str, prompt: Prompt) -> int:
    """Bytes of a sample's JSON."""
    size = _text_size(prompt.text) + len(str(prompt.seed)) + len(prompt.split)
    return size + (_LABELS_BYTES if kind == "pictures" else 0)


@lru_cache(maxsize=100_000)
def _text_size(text: str) -> int:
    """The same without the digits of the seed and the name of the split."""
    words = {word: [10] * _TOKENS_OF_A_WORD for word in words_of(text)}
    sample = {"prompt": text, "seed": 0, "split": "", "word_tokens": words}
    return len(json.dumps(sample).encode()) - 1
