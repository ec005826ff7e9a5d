"""Boxes for nouns: Grounding DINO (arXiv 2303.05499) through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffusae.concepts.annotators import Images
from diffusae.concepts.pretrained import Pretrained
from diffusae.errors import UserError, together


@dataclass(frozen=True)
class Box:
    """A detected object: label, score in [0, 1], corners (left, top, right, bottom) in pixels."""

    label: str
    score: float
    corners: tuple[float, float, float, float]


@dataclass(frozen=True)
class Prompt:
    """The detector's text, "dog. traffic light."; `spans`: the characters of each label."""

    text: str
    labels: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, labels: Sequence[str]) -> Prompt:
        """The text of some labels."""
        text, spans = "", []
        for label in labels:
            text += " " if text else ""
            spans.append((len(text), len(text) + len(label)))
            text += f"{label.lower()}."
        return cls(text, tuple(labels), tuple(spans))


class GroundingDino:
    """Finds boxes of given labels.

    The labels form one text, and every box has a score for every token of it. A box is kept where
    its best token is above `box_threshold`. Its label is the one with the highest mean score over
    the label's own tokens, which must be above `text_threshold`. (The library instead joins all
    tokens above the text threshold, so that two labels can become a third that nobody asked for.
    Boxes and scores are the same; a test compares them.)

    Args:
        source, revision, dtype, device: see `Pretrained`.
        box_threshold, text_threshold: range (0, 1); *open* in the paper. The defaults of
            Grounded-SAM's RAM example are 0.25 and 0.2.
        nms_iou: of two boxes that overlap more than this, whatever their labels, the one with the
            higher score stays; 1 keeps all. *Open*; Grounded-SAM's example has 0.5.
        labels_at_once: most labels in one text; None: as many as the model can read. Fewer labels
            disturb each other less but take more passes.

    Raises:
        UserError: a setting out of range, all of them together.
    """

    def __init__(
        self,
        source: str,
        *,
        revision: str | None = None,
        box_threshold: float = 0.25,
        text_threshold: float = 0.2,
        nms_iou: float = 0.5,
        labels_at_once: int | None = None,
        dtype: str = "float32",
        device: str | None = None,
    ) -> None:
        thresholds = {
            "box_threshold": box_threshold, "text_threshold": text_threshold, "nms_iou": nms_iou,
        }  # fmt: skip
        faults = [
            f"detector.{name}={value} must lie in (0, 1]; change it"
            for name, value in thresholds.items()
            if not 0 < value <= 1
        ]
        if labels_at_once is not None and labels_at_once < 1:
            faults.append(
                f"detector.labels_at_once={labels_at_once} must be at least 1, or null; raise it"
            )
        together(faults)
        setting = "annotator.objects.detector.source"
        self._from = Pretrained(source, setting, revision, dtype, device)
        self.box_threshold, self.text_threshold = box_threshold, text_threshold
        self.nms_iou, self.labels_at_once = nms_iou, labels_at_once

    def identity(self) -> dict[str, Any]:
        """What determines its boxes."""
        return {
            "grounding_dino": self._from.identity(),
            "dtype": self._from.dtype,
            "thresholds": [self.box_threshold, self.text_threshold, self.nms_iou],
            "labels_at_once": self.labels_at_once,
        }

    @cached_property
    def _parts(self) -> tuple[Any, Any, Any]:
        from transformers import AutoModelForZeroShotObjectDetection

        return (
            self._from.model(AutoModelForZeroShotObjectDetection),
            self._from.tokenizer(),
            self._from.image_processor(),
        )

    def detect(self, images: Images, labels: Sequence[Sequence[str]]) -> list[list[Box]]:
        """The boxes of every picture for its own labels, by falling score.

        `images` are uint8 [n, H, W, 3]; a picture without labels has no boxes.
        """
        texts = [self._prompts(of_picture) for of_picture in labels]
        boxes: list[list[Box]] = [[] for _ in texts]
        # Pass i reads the i-th text of every picture that has so many.
        for turn in range(max(map(len, texts), default=0)):
            rows = [row for row, prompts in enumerate(texts) if len(prompts) > turn]
            read = self._read(images[rows], [texts[row][turn] for row in rows])
            for row, new in zip(rows, read, strict=True):
                boxes[row] += new
        return [self._without_doubles(of_picture) for of_picture in boxes]

    def _prompts(self, labels: Sequence[str]) -> list[Prompt]:
        """The labels in as few texts as their order allows."""
        model, tokenizer, _ = self._parts
        room = int(model.config.max_text_len) - 2  # the start and the end take a token each
        groups: list[list[str]] = []
        left = 0
        for label in labels:
            length = len(tokenizer(f"{label.lower()}.", add_special_tokens=False)["input_ids"])
            if length > room:
                raise UserError(
                    f"the label {label!r} has {length} tokens; the detector reads {room}:"
                    " shorten it"
                )
            if left < length or len(groups[-1]) == self.labels_at_once:
                groups.append([])
                left = room
            groups[-1].append(label)
            left -= length
        return [Prompt.of(group) for group in groups]

    @torch.no_grad()
    def _read(self, images: Images, prompts: Sequence[Prompt]) -> list[list[Box]]:
        model, tokenizer, image_processor = self._parts
        text = tokenizer(
            [prompt.text for prompt in prompts],
            padding=True,
            return_offsets_mapping=True,
            return_token_type_ids=True,
            return_tensors="pt",
        )
        offsets = text.pop("offset_mapping")
        pixels = image_processor(images=list(images), return_tensors="pt").to(model.device)
        pixels["pixel_values"] = pixels["pixel_values"].to(model.dtype)
        outputs = model(**pixels, **text.to(model.device))
        size = (images.shape[1], images.shape[2])
        logits, boxes = outputs.logits.float().sigmoid().cpu(), outputs.pred_boxes.float().cpu()
        rows = zip(prompts, logits, boxes, offsets, strict=True)
        return [self._boxes_of(*row, size) for row in rows]

    def _boxes_of(
        self,
        prompt: Prompt,
        chances: Float[Tensor, "queries tokens"],
        boxes: Float[Tensor, "queries 4"],
        offsets: Int[Tensor, "text 2"],
        size: tuple[int, int],
    ) -> list[Box]:
        """The kept boxes of a picture; `boxes`: (centre x, centre y, width, height) as shares."""
        height, width = size
        centre, extent = boxes[:, :2], boxes[:, 2:]
        corners = torch.cat([centre - extent / 2, centre + extent / 2], dim=1).clamp(0, 1)
        corners *= torch.tensor([width, height, width, height])
        places = [
            [n for n, (start, end) in enumerate(offsets.tolist()) if first <= start < end <= last]
            for first, last in prompt.spans
        ]
        read = [n for n, tokens in enumerate(places) if tokens]  # unknown signs have no token
        if not read:
            return []
        means = torch.stack([chances[:, places[n]].mean(dim=1) for n in read], dim=1)
        best = torch.stack([chances[:, places[n]].amax(dim=1) for n in read], dim=1).amax(dim=1)
        score, which = means.max(dim=1)
        wide = (corners[:, 2:] > corners[:, :2]).all(dim=1)
        kept = (best > self.box_threshold) & (score > self.text_threshold) & wide
        return [
            Box(prompt.labels[read[int(which[n])]], float(best[n]), tuple(corners[n].tolist()))
            for n in kept.nonzero()[:, 0].tolist()
        ]

    def _without_doubles(self, boxes: Sequence[Box]) -> list[Box]:
        kept: list[Box] = []
        for box in sorted(boxes, key=lambda one: -one.score):
            if all(box_iou(box.corners, other.corners) <= self.nms_iou for other in kept):
                kept.append(box)
        return kept


def box_iou(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom); 0 where the union is 0."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    union = sum(areas) - shared
    return shared / union if union > 0 else 0.0
