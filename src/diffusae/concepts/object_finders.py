"""Masks of nouns in pictures: tags -> boxes -> masks (Emergence, section 4), or CLIPSeg (6.1)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffusae.concepts.annotators import BoolImage, Images
from diffusae.concepts.grounding_dino import GroundingDino
from diffusae.concepts.pretrained import Pretrained
from diffusae.concepts.sam import Sam
from diffusae.concepts.taggers import Tagger
from diffusae.concepts.words import Vocabulary
from diffusae.errors import UserError

Instances = list[tuple[str, BoolImage]]


class ObjectFinder(Protocol):
    """Finds the objects of a vocabulary."""

    @property
    def reads_captions(self) -> bool:
        """Whether its result depends on the caption."""
        ...

    def find(
        self, images: Images, vocabulary: Vocabulary, captions: Sequence[str] | None
    ) -> list[Instances]:
        """(label, mask) of every object in each picture of uint8 [n, H, W, 3]; masks are [H, W]."""
        ...

    def identity(self) -> dict[str, Any]:
        """What determines its result."""
        ...


class GroundedSam:
    """Tags, boxes of the tagged nouns, a mask in each box; one pass a model and batch."""

    def __init__(self, tagger: Tagger, detector: GroundingDino, segmenter: Sam) -> None:
        self.tagger, self.detector, self.segmenter = tagger, detector, segmenter

    @property
    def reads_captions(self) -> bool:
        return self.tagger.reads_captions

    def find(
        self, images: Images, vocabulary: Vocabulary, captions: Sequence[str] | None
    ) -> list[Instances]:
        boxes = self.detector.detect(images, self.tagger.tag(images, vocabulary, captions))
        masks = self.segmenter.segment(images, [[box.corners for box in row] for row in boxes])
        return [
            [(box.label, mask) for box, mask in zip(*pair, strict=True)]
            for pair in zip(boxes, masks, strict=True)
        ]

    def identity(self) -> dict[str, Any]:
        parts = (self.tagger, self.detector, self.segmenter)
        return {"finder": "grounded_sam", "parts": [part.identity() for part in parts]}


class ClipSeg:
    """CLIPSeg (arXiv 2112.10003): a heat map for each tagged noun, cut into one mask.

    A noun counts as absent only where its heat map stays below the threshold everywhere.

    Args:
        tagger: names the nouns to look for.
        source, revision, dtype, device: see `Pretrained`.
        template: the prompt; `{}` is the noun.
        threshold: heat, in (0, 1), above which a pixel belongs to the noun (*open* in the paper).
        pairs_at_once: pairs of picture and noun in one pass.

    Raises:
        UserError: a setting out of range.
    """

    def __init__(
        self,
        tagger: Tagger,
        source: str,
        *,
        revision: str | None = None,
        template: str = "a photo of a {}",
        threshold: float = 0.5,
        pairs_at_once: int = 32,
        dtype: str = "float32",
        device: str | None = None,
    ) -> None:
        if template.count("{}") != 1:
            raise UserError(
                f"objects.template={template!r} must hold {{}} once, where the noun goes; add it"
            )
        if not 0 < threshold < 1:
            raise UserError(f"objects.threshold={threshold} must lie in (0, 1); change it")
        if pairs_at_once < 1:
            raise UserError(f"objects.pairs_at_once={pairs_at_once} must be at least 1; raise it")
        self._from = Pretrained(source, "annotator.objects.source", revision, dtype, device)
        self.tagger, self.template, self.threshold = tagger, template, threshold
        self.pairs_at_once = pairs_at_once

    @property
    def reads_captions(self) -> bool:
        return self.tagger.reads_captions

    @cached_property
    def _parts(self) -> tuple[Any, Any, Any]:
        from transformers import CLIPSegForImageSegmentation

        return (
            self._from.model(CLIPSegForImageSegmentation),
            self._from.tokenizer(),
            self._from.image_processor(),
        )

    def find(
        self, images: Images, vocabulary: Vocabulary, captions: Sequence[str] | None
    ) -> list[Instances]:
        tags = self.tagger.tag(images, vocabulary, captions)
        pairs = [(row, label) for row, labels in enumerate(tags) for label in labels]
        objects: list[Instances] = [[] for _ in tags]
        for first in range(0, len(pairs), self.pairs_at_once):
            part = pairs[first : first + self.pairs_at_once]
            heat = self.heat(images[[row for row, _ in part]], [label for _, label in part])
            for (row, label), mask in zip(part, np.asarray(heat > self.threshold), strict=True):
                objects[row].append((label, mask))
        return objects

    @torch.no_grad()
    def heat(self, images: Images, nouns: Sequence[str]) -> Float[Tensor, "n H W"]:
        """How likely each pixel shows the picture's noun, range [0, 1], resized bilinearly."""
        model, tokenizer, image_processor = self._parts
        texts = [self.template.format(noun) for noun in nouns]
        text = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        pixels = image_processor(images=list(images), return_tensors="pt")["pixel_values"]
        logits = model(
            pixel_values=pixels.to(model.device, model.dtype),
            input_ids=text["input_ids"].to(model.device),
            attention_mask=text["attention_mask"].to(model.device),
        ).logits
        maps = logits.float().reshape(len(images), 1, *logits.shape[-2:]).cpu()
        size = images.shape[1:3]
        return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)[:, 0].sigmoid()

    def identity(self) -> dict[str, Any]:
        return {
            "finder": "clipseg",
            "parts": [self.tagger.identity(), self._from.identity(), self._from.dtype],
            "template": self.template,
            "threshold": self.threshold,
        }
