"""Florence-2 (arXiv 2311.06242) as a tagger, by transformers' own classes: no remote code."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from diffusae.concepts.annotators import Images
from diffusae.concepts.pretrained import Pretrained
from diffusae.concepts.words import Vocabulary
from diffusae.errors import UserError, unknown

TASKS = {
    "objects": "<OD>",
    "regions": "<DENSE_REGION_CAPTION>",
    "caption": "<CAPTION>",
    "detailed_caption": "<DETAILED_CAPTION>",
    "more_detailed_caption": "<MORE_DETAILED_CAPTION>",
}


class FlorenceTagger:
    """The labels that Florence-2 detects in a picture, or names in a text about it.

    The folder must be in the format of transformers' `Florence2ForConditionalGeneration`
    (florence-community/...). The first releases (microsoft/...) run code of their own, which is
    refused.

    Args:
        source, revision, dtype, device: see `Pretrained`.
        task: "objects" takes the detected classes, each as a whole; the other tasks take the nouns
            of region descriptions or of a caption, short to long (*open* in the paper, which has
            another tagger).
        max_new_tokens, beams: of the generation, a beam search without sampling.

    Raises:
        UserError: an unknown task, or a number below 1.
    """

    reads_captions = False

    def __init__(
        self,
        source: str,
        *,
        revision: str | None = None,
        task: str = "objects",
        max_new_tokens: int = 256,
        beams: int = 3,
        dtype: str = "float32",
        device: str | None = None,
    ) -> None:
        if task not in TASKS:
            raise unknown("task of Florence-2", task, TASKS)
        if min(max_new_tokens, beams) < 1:
            raise UserError(
                f"tagger.max_new_tokens={max_new_tokens} and tagger.beams={beams} must be at"
                " least 1; raise them"
            )
        self._from = Pretrained(source, "tagger.source", revision, dtype, device)
        self.task, self.max_new_tokens, self.beams = task, max_new_tokens, beams

    def identity(self) -> dict[str, Any]:
        return {
            "tagger": self._from.identity(),
            "dtype": self._from.dtype,
            "task": self.task,
            "max_new_tokens": self.max_new_tokens,
            "beams": self.beams,
        }

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        from transformers import Florence2ForConditionalGeneration

        return self._from.model(Florence2ForConditionalGeneration), self._from.processor()

    @torch.no_grad()
    def tag(
        self, images: Images, vocabulary: Vocabulary, captions: Sequence[str] | None
    ) -> list[list[str]]:
        model, processor = self._parts
        task = TASKS[self.task]
        inputs = processor(images=list(images), text=[task] * len(images), return_tensors="pt")
        made = model.generate(
            **inputs.to(model.device).to(model.dtype),
            max_new_tokens=self.max_new_tokens,
            num_beams=self.beams,
            do_sample=False,
        )
        texts = processor.batch_decode(made)
        return [self._labels(text, images.shape[1:3], vocabulary) for text in texts]

    def _labels(self, text: str, size: tuple[int, ...], vocabulary: Vocabulary) -> list[str]:
        """The labels in one generated text."""
        processor = self._parts[1]
        task = TASKS[self.task]
        answer = processor.post_process_generation(
            text=text.replace("<pad>", ""), task=task, image_size=(size[1], size[0])
        )[task]
        if self.task == "objects":
            return vocabulary.labels_of(answer["labels"])
        described = answer if isinstance(answer, str) else ". ".join(answer["labels"])
        return vocabulary.labels_in(described)
