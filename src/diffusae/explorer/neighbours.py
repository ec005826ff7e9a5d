"""The labels that are nearest to a word, by the embedding that the study was labelled with."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from threading import Lock

from diffusae.concepts.embeddings import WordEmbedding
from diffusae.explorer.catalogue import Catalogue
from diffusae.exploring.concept_table import similar_labels
from diffusae.labelling.label import word_embedding
from diffusae.study.study import Study

KEPT_WORDS = 512
"""Whose answers stay in memory."""


class Neighbours:
    """Answers words that are no label. The embedding is loaded at the first such word, which takes
    some seconds.

    Args:
        settings: the study's configuration, with its embedding.
        catalogue: the labels and their vectors.
    """

    def __init__(self, settings: Study, catalogue: Catalogue) -> None:
        self._settings, self._catalogue = settings, catalogue
        self._words: WordEmbedding | None = None
        self._lock = Lock()
        self._near = lru_cache(KEPT_WORDS)(self._nearest)

    def __call__(self, word: str) -> Mapping[str, float]:
        """{label: cosine}, the nearest first.

        Raises:
            UserError: the embedding is not at hand, is another one than the study's, or has no
                vector for the word.
        """
        with self._lock:  # one at a time: a word embedding is a small model
            return self._near(word.casefold())

    def _nearest(self, word: str) -> Mapping[str, float]:
        return similar_labels(
            self._catalogue.vectors, self._catalogue.labels, word, self._embedding
        )

    def _embedding(self) -> WordEmbedding:
        if self._words is None:
            self._words = word_embedding(self._settings)
        return self._words
