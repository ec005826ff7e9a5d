"""Taggers: which nouns to look for in a picture. The paper's is RAM (arXiv 2306.03514)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from diffusae.concepts.annotators import Images
from diffusae.concepts.image_text import ImageText
from diffusae.concepts.words import Vocabulary
from diffusae.errors import UserError


class Tagger(Protocol):
    """Names the labels of a vocabulary that a picture may show."""

    @property
    def reads_captions(self) -> bool:
        """Whether its tags depend on the caption."""
        ...

    def tag(
        self, images: Images, vocabulary: Vocabulary, captions: Sequence[str] | None
    ) -> list[list[str]]:
        """Labels of each picture of uint8 [n, H, W, 3] in the vocabulary's order; may be empty."""
        ...

    def identity(self) -> dict[str, Any]:
        """What determines its tags."""
        ...


class CaptionTagger:
    """The nouns of the caption; without captions, the whole vocabulary.

    It never names an object that the model added without being asked: those become background.
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
        template: a sentence for the label, `{}`.
        most: most labels of a picture.
        least: the least score of a label: for CLIP a cosine (true labels of a picture lie near 0.2
            to 0.3), for SigLIP a probability. None: no bound, always `most` labels.

    All of these are *open* in the paper, whose tagger has thresholds of its own.

    Raises:
        UserError: a template without `{}`, or `most` below 1.
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
        labels = []
        for row, of_picture in zip(values.tolist(), places.tolist(), strict=True):
            pairs = zip(row, of_picture, strict=True)
            kept = sorted(n for value, n in pairs if self.least is None or value >= self.least)
            labels.append([vocabulary[n] for n in kept])
        return labels

    def identity(self) -> dict[str, Any]:
        return {
            "tagger": self.model.identity(),
            "template": self.template,
            "most": self.most,
            "least": self.least,
        }
