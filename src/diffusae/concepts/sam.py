"""Masks for boxes: Segment Anything (arXiv 2304.02643), its first version, through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from diffusae.concepts.annotators import BoolImage, Images
from diffusae.concepts.pretrained import Pretrained
from diffusae.errors import UserError

Corners = tuple[float, float, float, float]


class Sam:
    """Cuts out the object in a box.

    Args:
        source, revision, dtype, device: see `Pretrained`.
        mask_threshold: logits above it belong to the mask; 0 is the model's own.
        best_of_three: let the model make three masks a box and take the one that it rates highest,
            instead of one mask (*open*; Grounded-SAM takes one).
        boxes_at_once: boxes of one picture in one pass of the mask decoder.

    Raises:
        UserError: `boxes_at_once` below 1.
    """

    def __init__(
        self,
        source: str,
        *,
        revision: str | None = None,
        mask_threshold: float = 0.0,
        best_of_three: bool = False,
        boxes_at_once: int = 64,
        dtype: str = "float32",
        device: str | None = None,
    ) -> None:
        if boxes_at_once < 1:
            raise UserError(f"segmenter.boxes_at_once={boxes_at_once} must be at least 1; raise it")
        setting = "annotator.objects.segmenter.source"
        self._from = Pretrained(source, setting, revision, dtype, device)
        self.mask_threshold, self.best_of_three = mask_threshold, best_of_three
        self.boxes_at_once = boxes_at_once

    def identity(self) -> dict[str, Any]:
        """What determines its masks."""
        return {
            "sam": self._from.identity(),
            "dtype": self._from.dtype,
            "mask_threshold": self.mask_threshold,
            "best_of_three": self.best_of_three,
        }

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        from transformers import SamModel, SamProcessor

        return self._from.model(SamModel), SamProcessor(self._from.image_processor())

    @torch.no_grad()
    def segment(self, images: Images, boxes: Sequence[Sequence[Corners]]) -> list[list[BoolImage]]:
        """One mask of the picture's size for every box (left, top, right, bottom; pixels).

        `images` are uint8 [n, H, W, 3]. Pictures without boxes are skipped.
        """
        model, processor = self._parts
        rows = [row for row, of_picture in enumerate(boxes) if of_picture]
        masks: list[list[BoolImage]] = [[] for _ in boxes]
        if not rows:
            return masks
        inputs = [
            processor(
                images=images[row],
                input_boxes=[[list(box) for box in boxes[row]]],
                return_tensors="pt",
            )
            for row in rows
        ]
        pixels = torch.cat([one["pixel_values"] for one in inputs]).to(model.device, model.dtype)
        embeddings = model.get_image_embeddings(pixels)
        for row, one, embedding in zip(rows, inputs, embeddings, strict=True):
            for part in one["input_boxes"].split(self.boxes_at_once, dim=1):
                logits = self._decode(embedding[None], part.to(model.device, model.dtype))
                cut = processor.image_processor.post_process_masks(
                    [logits.float().cpu()],
                    one["original_sizes"],
                    one["reshaped_input_sizes"],
                    mask_threshold=self.mask_threshold,
                )[0]
                masks[row] += [np.asarray(mask[0]) for mask in cut]
        return masks

    def _decode(self, embedding: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """The logits of one mask a box, [boxes, 1, h, w]."""
        model, _ = self._parts
        made = model(
            image_embeddings=embedding, input_boxes=boxes, multimask_output=self.best_of_three
        )
        logits, quality = made.pred_masks[0], made.iou_scores[0]
        best = quality.argmax(dim=1)
        return logits[torch.arange(len(best), device=best.device), best][:, None]
