"""Collecting from given pictures: encoded, noised to every t, and sent through the denoiser once,
under one prompt.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from diffusae.activations.schema import CollectedSample
from diffusae.backbone.describe import Description
from diffusae.backbone.families.table import adapter_of
from diffusae.backbone.latents import encode_pictures
from diffusae.backbone.passes import BATCHED
from diffusae.backbone.random_weights import with_random_denoiser
from diffusae.backbone.settings import ModelSettings
from diffusae.capture.noised import capture_noised, prompted
from diffusae.collecting.batch import Batch, batches_of, numbers_of, sample_of
from diffusae.pictures.decode import fitted
from diffusae.prompts.prompt_set import Prompt
from diffusae.study.given_pictures import undecodable
from diffusae.study.model import sampling, scheduler_timestep
from diffusae.study.pictures_at_once import pictures_at_once
from diffusae.study.settings import PictureCollection
from diffusae.study.streams import SEEN_SPLITS, hookpoints_of, source_determines, streams_of
from diffusae.study.study import Study

log = logging.getLogger(__name__)

_INDIFFERENT = ("guidance", "true_guidance")
"""Settings that change nothing in a pass under one prompt, where guidance is no input of the model
(as it is of FLUX).
"""


class CollectPictures:
    """The study's given pictures."""

    what = "pictures"
    ragged = False
    keeps_pictures = True

    def __init__(self, study: Study) -> None:
        self.study = study
        self.skipped = 0

    def determines(self) -> dict[str, Any]:
        """The model, the grid, the pictures with their labels, and how they are recorded."""
        study = self.study
        collection = PictureCollection.of(study.cfg)
        names = ("prompt", "record", "pooled", "skip_undecodable", "random_weights")
        kept = {"kind": study.kind} | {name: getattr(collection, name) for name in names}
        if collection.random_weights:
            kept["random_weights_seed"] = collection.random_weights_seed
        model = source_determines(study)
        if ModelSettings.of(study.cfg).guidance_layout in (*BATCHED, "guided_passes"):
            model = {name: value for name, value in model.items() if name not in _INDIFFERENT}
        return {
            "model": model,
            "grid": study.part("grid"),
            "collection": kept,
            "pictures": study.given.listing,
        }

    def prompts(self) -> list[Prompt]:
        """One prompt for every picture that decodes. Pictures that do not are refused, unless they
        are to be skipped.
        """
        study = self.study
        good, faults = study.given.decodable(
            study.prompts, skip=study.cfg.collection.skip_undecodable
        )
        self.skipped = len(faults)
        if faults:
            log.warning(
                "%s and %s left out: %s%s",
                undecodable(len(faults), len(study.prompts)),
                "is" if len(faults) == 1 else "are",
                "; ".join(faults[:10]),
                f"; and {len(faults) - 10} more" if len(faults) > 10 else "",
            )
        return good

    def begin(self, pipe: Any, description: Description) -> _Passing:
        """Draw the denoiser's weights anew where `random_weights` asks for it, and be ready."""
        return _Passing(self.study, pipe, description, skipped=self.skipped)


class _Passing:
    """Turns pictures into batches of records."""

    def __init__(self, study: Study, pipe: Any, description: Description, *, skipped: int) -> None:
        model, collection = ModelSettings.of(study.cfg), PictureCollection.of(study.cfg)
        self.model, self.collection = model, collection
        self.hookpoints = hookpoints_of(study)
        self.given, self.pipe = study.given, pipe
        if collection.random_weights:
            with_random_denoiser(pipe, seed=collection.random_weights_seed)
        adapter = adapter_of(pipe)
        self.streams = streams_of(
            study,
            description,
            lambda t: scheduler_timestep(pipe, adapter, model, t),
            description.tokens,
        )
        self.header = {
            "collection": "pictures",
            "model": model.name,
            "source": source_determines(study)["source"],
            "scheduler": type(pipe.scheduler).__name__,
            "steps": model.steps,
            "prompt": collection.prompt,
            "record": collection.record,
            "pooled": collection.pooled,
            "random_weights": collection.random_weights,
            "undecodable_pictures": skipped,
            "label_tasks": study.given.source.tasks(),
        }
        asked = sampling(model)
        asked.pop("steps")
        self.conditions = prompted(pipe, collection.prompt, **asked)

    def batches(self, prompts: Sequence[Prompt]) -> Iterator[Batch]:
        """One pass a batch; the pictures themselves are kept where someone looks at them later."""
        timesteps = {stream.timestep for stream in self.streams}
        size = pictures_at_once(self.model, self.pipe)
        for batch in batches_of(prompts, size):
            pictures = np.stack([self._picture(prompt) for prompt in batch])
            captured = capture_noised(
                self.pipe,
                encode_pictures(self.pipe, torch.from_numpy(pictures), batch_size=len(batch)),
                [prompt.seed for prompt in batch],
                self.conditions,
                hookpoints=self.hookpoints,
                timesteps=sorted(timesteps),
                pooled=self.collection.pooled,
            )
            yield Batch(len(batch), partial(self._records, batch, pictures, captured))

    def _records(
        self,
        batch: Sequence[Prompt],
        pictures: UInt8[np.ndarray, "n height width 3"],
        captured: Mapping[tuple[str, float], Tensor],
    ) -> Iterator[CollectedSample]:
        for row, prompt in enumerate(batch):
            given = self.given[prompt.image_id]
            yield sample_of(
                prompt,
                updates={
                    stream.folder: numbers_of(captured[stream.block, stream.timestep][row])
                    for stream in self.streams
                },
                image=pictures[row] if prompt.split in SEEN_SPLITS else None,
                meta={"labels": dict(given.labels), "name": given.name},
            )

    def _picture(self, prompt: Prompt) -> UInt8[np.ndarray, "height width 3"]:
        picture = self.given.source.picture(self.given[prompt.image_id].place)
        return fitted(picture, self.model.height, self.model.width)
