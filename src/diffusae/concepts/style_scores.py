"""Scores of a picture's style by its likeness to words: judges global edits (Emergence, 6.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from diffusae.concepts.annotators import Images
from diffusae.concepts.image_text import ImageText
from diffusae.errors import together

Words = Sequence[str] | Mapping[str, Sequence[str]]


class StyleScorer:
    """For each factor, such as style, the likeness of a picture to each of its values.

    A value's vector is the mean vector of its words, as the paper takes the mean CLIP text
    embedding of a concept's words. Its score is the cosine with the picture's vector (the CLIP
    score divided by 100), range [-1, 1]. Scores of different values can be compared, but they are
    no probabilities.

    Args:
        model: see `ImageText`; CLIP, so that scores are cosines.
        factors: factor -> its values: a list of names, or a mapping of names to their words.
        templates: sentences for a word, `{}`; the vectors of all sentences are averaged.

    Raises:
        UserError: no factor, a factor with fewer than two values, a value without words, a template
            without `{}` (all of them together).
    """

    def __init__(
        self, model: ImageText, factors: Mapping[str, Words], *, templates: Sequence[str] = ("{}",)
    ) -> None:
        self.words = {
            factor: (
                {v: tuple(w) for v, w in values.items()}
                if isinstance(values, Mapping)
                else {value: (value,) for value in values}
            )
            for factor, values in factors.items()
        }
        faults = [] if self.words else ["styles.factors is empty; name a factor and its values"]
        for factor, values in self.words.items():
            if len(values) < 2:
                faults.append(
                    f"styles.factors.{factor} has {len(values)} values; give at least 2 to compare"
                )
            faults += [
                f"styles.factors.{factor}.{value} has no words; give some"
                for value, words in values.items()
                if not words
            ]
        faults += [
            f"styles.templates: {template!r} must hold {{}} once, where the word goes; add it"
            for template in templates
            if template.count("{}") != 1
        ]
        if not templates:
            faults.append("styles.templates is empty; '{}' is the bare word")
        together(faults)
        self.model, self.templates = model, tuple(templates)

    @property
    def factors(self) -> dict[str, tuple[str, ...]]:
        """Factor -> its values in the order of the scores."""
        return {factor: tuple(values) for factor, values in self.words.items()}

    def score(self, images: Images) -> list[dict[str, list[float]]]:
        """For each picture of uint8 [n, H, W, 3]: factor -> the scores of its values."""
        pictures = self.model.embed_images(images)
        scores = {}
        for factor, values in self.words.items():
            vectors = torch.stack([self._vector(words) for words in values.values()])
            scores[factor] = (pictures @ vectors.T).tolist()
        return [{factor: rows[n] for factor, rows in scores.items()} for n in range(len(images))]

    def _vector(self, words: Sequence[str]) -> torch.Tensor:
        texts = [template.format(word) for word in words for template in self.templates]
        return F.normalize(self.model.embed_texts(texts).mean(dim=0), dim=0)

    def identity(self) -> dict[str, Any]:
        """What determines its scores."""
        return {"styles": self.model.identity(), "words": self.words, "templates": self.templates}
