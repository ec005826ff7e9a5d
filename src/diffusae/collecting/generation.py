"""Collecting from generations: updates of every cell, the model's attention to the text, and the
pictures.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from torch import Tensor

from diffusae.activations.schema import ATTENTION, CONCEPTS, CollectedSample, Stream
from diffusae.activations.settings import ActivationSettings, HeldOut
from diffusae.backbone.describe import Description
from diffusae.backbone.families.table import adapter_of
from diffusae.backbone.settings import ModelSettings
from diffusae.capture.attention import (
    CapturedAttention,
    capture_cross_attention,
    mean_map,
    word_tokens,
)
from diffusae.capture.concept_attention import (
    CapturedConcepts,
    capture_concept_attention,
    encode_concepts,
)
from diffusae.capture.generate import Generation, generate
from diffusae.collecting.batch import Batch, batches_of, numbers_of, sample_of
from diffusae.collecting.text_tokens import StoredTokens, TextTokens
from diffusae.collecting.truncation import count_truncated
from diffusae.prompts.prompt_set import Prompt
from diffusae.study.model import sampling, scheduler_timestep
from diffusae.study.pictures_at_once import pictures_at_once
from diffusae.study.settings import GenerationCollection, GridSettings
from diffusae.study.streams import (
    SEEN_SPLITS,
    finest_grid,
    hookpoints_of,
    source_determines,
    stored_in,
    streams_of,
    words_of,
)
from diffusae.study.study import Study

log = logging.getLogger(__name__)


class CollectGeneration:
    """Pictures of the study's captions, made as the pipeline makes them without hooks."""

    what = "pictures"
    keeps_pictures = True

    def __init__(self, study: Study) -> None:
        self.study = study
        # Texts differ in their number of tokens.
        self.ragged = any(map(study.reads_text, GridSettings.of(study.cfg).blocks))

    def determines(self) -> dict[str, Any]:
        """The model, the grid and the captions."""
        study, concepts = self.study, GenerationCollection.of(self.study.cfg)
        return {
            **({"concepts": vars(concepts)} if concepts.concepts else {}),
            "model": source_determines(study),
            "grid": study.part("grid"),
            "prompts": prompts_hash(study.prompts),
            "counts": dict(study.cfg.prompts.counts),
        }

    def prompts(self) -> list[Prompt]:
        """Every caption."""
        return self.study.prompts

    def begin(self, pipe: Any, description: Description) -> _Generating:
        """Log which captions are cut off, and be ready."""
        return _Generating(self.study, pipe, description)


def prompts_hash(prompts: Sequence[Prompt]) -> str:
    """One hash over ids, captions, seeds and splits."""
    values = json.dumps([[p.image_id, p.text, p.seed, p.split] for p in prompts])
    return hashlib.sha256(values.encode()).hexdigest()[:16]


class _Generating:
    """Turns prompts into batches of records."""

    def __init__(self, study: Study, pipe: Any, description: Description) -> None:
        model = ModelSettings.of(study.cfg)
        self.model, self.grid, self.pipe = model, GridSettings.of(study.cfg), pipe
        self.held_out: HeldOut = ActivationSettings.of(study.cfg).held_out
        self.hookpoints = hookpoints_of(study)
        self.finest = finest_grid(study, description)
        adapter = adapter_of(pipe)
        tokenizer, self.tokens = adapter.words(pipe, model.text_tokens)
        self.tokenizer = copy.deepcopy(tokenizer)  # two threads must not share one
        self.streams = streams_of(
            study, description, lambda t: scheduler_timestep(pipe, adapter, model, t), self.tokens
        )
        self.concepts = GenerationCollection.of(study.cfg)
        self.encoded: Tensor | None = None
        if (words := self.concepts.concepts) is not None:
            asked = sampling(model)
            asked.pop("steps")
            token = self.concepts.concept_token
            self.encoded = encode_concepts(pipe, words, token=token, **asked)
        self.attention = {one.folder for one in self.streams if one.block == ATTENTION}
        self.text = TextTokens(pipe, model.text_tokens, self.streams)
        self.header = {
            "model": model.name,
            "source": source_determines(study)["source"],
            "scheduler": type(pipe.scheduler).__name__,
            "steps": model.steps,
            "guidance": model.guidance,
            **({} if self.encoded is None else {"concepts": list(self.concepts.concepts or ())}),
            "truncated_prompts": count_truncated(self.tokenizer, self.tokens, study.prompts),
        }

    def batches(self, prompts: Sequence[Prompt]) -> Iterator[Batch]:
        """Generate; pictures are decoded where someone looks at them later."""
        split = prompts[0].split
        streams = [stream for stream in self.streams if stored_in(stream, split, self.held_out)]
        timesteps = sorted({stream.timestep for stream in streams})
        size = pictures_at_once(self.model, self.pipe)
        for batch in batches_of(prompts, size):
            with (
                self._attention(streams, timesteps) as attention,
                self._concepts(streams, timesteps) as concepts,
            ):
                made = generate(
                    self.pipe,
                    [prompt.text for prompt in batch],
                    [prompt.seed for prompt in batch],
                    **sampling(self.model),
                    hookpoints=self.hookpoints,
                    timesteps=timesteps,
                    conditionings=self.grid.conditionings,
                    decode=split in SEEN_SPLITS,
                )
            maps = {} if attention is None else self._maps(attention, timesteps)
            beside = {ATTENTION: maps, CONCEPTS: concepts.maps}
            tensors = {
                stream.folder: (
                    beside[stream.block][stream.timestep]
                    if stream.block in beside
                    else made.updates[stream.block, stream.timestep, stream.conditioning]
                )
                for stream in streams
            }
            tokens = self.text.of_batch(batch, streams, made)
            yield Batch(len(batch), partial(self._records, batch, made, tensors, tokens))

    def _records(
        self,
        batch: Sequence[Prompt],
        made: Generation,
        tensors: Mapping[str, Tensor],
        tokens: Sequence[StoredTokens] | None,
    ) -> Iterator[CollectedSample]:
        for row, places in made.nonfinite.items():
            log.warning(
                "not finite: %r, seed %d: %s", batch[row].text, batch[row].seed, ", ".join(places)
            )
        for row, prompt in enumerate(batch):
            words = self._word_tokens(prompt.text)
            columns = sorted({token for tokens in words.values() for token in tokens})
            updates = {folder: numbers_of(tensor[row]) for folder, tensor in tensors.items()}
            for folder in self.attention & updates.keys():  # nobody reads the other tokens
                updates[folder] = updates[folder][:, columns]
            meta: dict[str, Any] = {"word_tokens": words}
            positions = None
            if tokens is not None:
                positions = tokens[row].positions
                updates = {name: rows[positions[name]] for name, rows in updates.items()}
                meta["text_tokens"] = tokens[row].strings
            yield sample_of(
                prompt,
                updates=updates,
                positions=positions,
                columns=columns,
                image=None if made.images is None else made.images[row],
                meta=meta,
            )

    def _attention(
        self, streams: Sequence[Stream], timesteps: Sequence[float]
    ) -> AbstractContextManager[CapturedAttention | None]:
        if any(stream.block == ATTENTION for stream in streams):
            return capture_cross_attention(self.pipe, timesteps)
        return nullcontext()

    def _concepts(
        self, streams: Sequence[Stream], timesteps: Sequence[float]
    ) -> AbstractContextManager[CapturedConcepts]:
        if self.encoded is None or not any(stream.block == CONCEPTS for stream in streams):
            return nullcontext(CapturedConcepts())
        return capture_concept_attention(
            self.pipe,
            timesteps,
            self.encoded,
            blocks=self.concepts.concept_blocks,
            unit_length=self.concepts.concept_unit_length,
        )

    def _maps(
        self, attention: CapturedAttention, timesteps: Sequence[float]
    ) -> dict[float, Tensor]:
        return {t: mean_map(attention, t, grid=self.finest)[..., : self.tokens] for t in timesteps}

    def _word_tokens(self, text: str) -> dict[str, list[int]]:
        """Where each word of a caption stands among its tokens, so that later stages need no
        tokenizer.
        """
        return {
            word: word_tokens(self.tokenizer, text, word, limit=self.tokens)
            for word in words_of(text)
        }
