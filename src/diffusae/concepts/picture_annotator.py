"""The annotator for real pictures: an object finder, a style scorer, and a cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffusae.concepts.annotation_cache import AnnotationCache, picture_key
from diffusae.concepts.annotators import Annotation, Images, merge_instances
from diffusae.concepts.object_finders import ObjectFinder
from diffusae.concepts.pretrained import in_batches
from diffusae.concepts.style_scores import StyleScorer
from diffusae.concepts.words import Vocabulary
from diffusae.errors import UserError, refuse_text

EVERYDAY = Path(__file__).with_name("everyday_nouns.txt")
"""The vocabulary for annotators that are given none."""


class PictureAnnotator:
    """Masks of nouns by an object finder, and scores of styles by a style scorer.

    A noun that is not found has no mask. A picture in which nothing is found has no masks: no data.

    Args:
        objects: finds masks.
        styles: scores whole pictures; None: no factors.
        vocabulary: labels, or a file (see `Vocabulary.read`); None: some 170 everyday nouns.
        minimum_area: a noun whose mask covers a smaller share of the picture is not found (*open*
            in the paper).
        cache: the folder that keeps annotations; None: nothing is kept.
        batch_size: pictures that go through the models, and then into the cache, together.

    Raises:
        UserError: a setting out of range, an unreadable vocabulary; in use: out of memory, with the
            batch size to try.
    """

    def __init__(
        self,
        objects: ObjectFinder,
        *,
        styles: StyleScorer | None = None,
        vocabulary: Sequence[str] | str | Path | None = None,
        minimum_area: float = 0.0,
        cache: Path | str | None = None,
        batch_size: int = 8,
    ) -> None:
        if not 0 <= minimum_area < 1:
            raise UserError(
                f"annotator.minimum_area={minimum_area} is a share: it must lie in [0, 1); lower it"
            )
        if batch_size < 1:
            raise UserError(f"annotator.batch_size={batch_size} must be at least 1; raise it")
        if isinstance(vocabulary, str | Path | None):
            self._vocabulary = Vocabulary.read(vocabulary or EVERYDAY)
        else:
            self._vocabulary = Vocabulary.of(vocabulary)
        self.objects, self.styles = objects, styles
        self.minimum_area, self.batch_size = minimum_area, batch_size
        self.cache = None if cache is None else AnnotationCache(cache)

    @property
    def labels(self) -> Vocabulary:
        """The nouns that it can find."""
        return self._vocabulary

    @property
    def factors(self) -> Mapping[str, Sequence[str]]:
        """Factor -> its values in the order of an annotation's scores; empty without a scorer."""
        return {} if self.styles is None else self.styles.factors

    @property
    def features(self) -> Callable[[Images], Float[Tensor, "n d"]] | None:
        """The style scorer's vectors of pictures, for distances; None without a scorer."""
        return None if self.styles is None else self._features

    def _features(self, images: Images) -> Float[Tensor, "n d"]:
        assert self.styles is not None
        model = self.styles.model

        def embed(rows: Sequence[int]) -> list[Tensor]:
            return list(model.embed_images(images[list(rows)]))

        rows, setting = range(len(images)), "annotator.batch_size"
        return torch.stack(in_batches(embed, rows, size=self.batch_size, setting=setting))

    @cached_property
    def _context(self) -> dict[str, Any]:
        """What determines an annotation, beside the picture and its caption."""
        return {
            "objects": self.objects.identity(),
            "styles": None if self.styles is None else self.styles.identity(),
            "vocabulary": self._vocabulary.names(),
            "minimum_area": self.minimum_area,
        }

    def annotate(
        self, images: Images, /, captions: Sequence[str] | None = None
    ) -> list[Annotation]:
        """One annotation for each picture of uint8 [n, H, W, 3]; masks have the pictures' size."""
        refuse_text("captions", captions)
        if captions is not None and len(captions) != len(images):
            raise UserError(
                f"{len(captions)} captions for {len(images)} pictures; give one a picture"
            )
        if not self.objects.reads_captions:
            captions = None
        keys: list[str] = []
        known: dict[str, Annotation] = {}
        if self.cache is not None:
            keys = [
                picture_key(image, {**self._context, "caption": captions[n] if captions else None})
                for n, image in enumerate(images)
            ]
            cached = {key: self.cache.get(key) for key in set(keys)}
            known = {key: entry for key, entry in cached.items() if entry is not None}
        rows = [row for row in range(len(images)) if not keys or keys[row] not in known]

        def annotate(part: Sequence[int]) -> list[Annotation]:
            texts = [captions[row] for row in part] if captions else None
            annotations = self._annotate(images[list(part)], texts)
            if self.cache is not None:
                for row, annotation in zip(part, annotations, strict=True):
                    self.cache.put(keys[row], annotation)
            return annotations

        setting = "annotator.batch_size"
        new = in_batches(annotate, rows, size=self.batch_size, setting=setting)
        made = dict(zip(rows, new, strict=True))
        return [made[row] if row in made else known[keys[row]] for row in range(len(images))]

    def _annotate(self, images: Images, captions: Sequence[str] | None) -> list[Annotation]:
        least = self.minimum_area * images.shape[1] * images.shape[2]
        scores: Sequence[dict[str, list[float]]] = (
            [{} for _ in images] if self.styles is None else self.styles.score(images)
        )
        objects = self.objects.find(images, self._vocabulary, captions)
        return [
            Annotation(
                masks={
                    noun: mask
                    for noun, mask in merge_instances(instances).items()
                    if mask.sum() >= least
                },
                factors={
                    factor: self.factors[factor][int(np.argmax(row))] for factor, row in of.items()
                },
                scores=of,
            )
            for instances, of in zip(objects, scores, strict=True)
        ]
