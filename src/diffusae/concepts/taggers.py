"""Taggers: which nouns are worth looking for in a picture. The paper's is RAM (arXiv
2306.03514).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from diffusae.concepts.annotators import Images
from diffusae.concepts.image_text import ImageText
from diffusae.concepts.words import Vocabulary
from diffusae.errors import UserError


class Tagger(Protocol):
    """Names what a picture may show, as labels of a vocabulary."""

    @property
    def reads_captions(self) -> bool:
        """Whether its tags depend on the caption."""
        ...

    def tag(
        self, images: Images, vocabulary: Vocabulary, captions: Sequence[str] | None
    ) -> list[list[str]]:
        """Labels for each picture of uint8 [n, H, W, 3], in the vocabulary's order; an empty list
        names nothing.
        """
        ...

    def identity(self) -> dict[str, Any]:
        """What determines its tags."""
        ...


class CaptionTagger:
    """The caption's own nouns: what the picture was asked to show. Without captions, the whole
    vocabulary.

    It never names what the model added of itself, so that such things become background.
    """

    reads_captions = True

    def tag(
        self, images: Images, vocabulary: Vocabulary, captions: Sequence[str] | None
    ) -> list[list[str]]:
        if captions is None:
            return [list(vocabulary) for _ in images]
        return [vocabulary.labels_in(caption) for caption in captions]

    def identity(self) -> dict[str, Any]:
        return {"tagger": "caption"}


class SimilarityTagger:
    """The labels of the vocabulary that are nearest to the picture, by CLIP or SigLIP.

    Args:
        model: see `ImageText`.
        template: the sentence that a label stands in; `{}` is the label.
        most: labels a picture at the most.
        least: a label must have at least this score: for CLIP a cosine (a picture's true labels lie
            near 0.2 to 0.3), for SigLIP a probability. None: no bound, so `most` labels always.

    All of these are *open* in the paper, whose tagger has thresholds of its own.

    Raises:
        UserError: a template without its place, or `most` below 1.
    """

    reads_captions = False

    def __init__(
        self,
        model: ImageText,
        *,
        template: str = "a photo of a {}",
        most: int = 10,
        least: float | None = None,
    ) -> None:
        if template.count("{}") != 1:
            raise UserError(
                f"tagger.template={template!r} must hold {{}} once, where the label goes; add it"
            )
        if most < 1:
            raise UserError(f"tagger.most={most} must be at least 1; raise it")
        self.model, self.template, self.most, self.least = model, template, most, least

    def tag(
        self, images: Images, vocabulary: Vocabulary, captions: Sequence[str] | None
    ) -> list[list[str]]:
        texts = self.model.embed_texts([self.template.format(label) for label in vocabulary])
        scores = self.model.scores(self.model.embed_images(images), texts)
        values, places = scores.topk(min(self.most, len(vocabulary)), dim=1)
        return [
            [
                vocabulary[n]
                for n in sorted(
                    place for value, place in row if self.least is None or value >= self.least
                )
            ]
            for row in (
                zip(v, p, strict=True)
                for v, p in zip(values.tolist(), places.tolist(), strict=True)
            )
        ]

    def identity(self) -> dict[str, Any]:
        return {
            "tagger": self.model.identity(),
            "template": self.template,
            "most": self.most,
            "least": self.least,
        }
