"""Collecting from text encoders: what their layers make of captions, token by token. Padding is not
stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from diffusae.activations.schema import CollectedSample
from diffusae.backbone.describe import Description
from diffusae.backbone.settings import ModelSettings
from diffusae.backbone.text_layers import find_text_layers, list_text_layers
from diffusae.capture.text import capture_text
from diffusae.collecting.batch import Batch, batches_of, numbers_of, sample_of
from diffusae.collecting.generation import prompts_hash
from diffusae.collecting.truncation import count_truncated
from diffusae.prompts.prompt_set import Prompt
from diffusae.study.pictures_at_once import pictures_at_once
from diffusae.study.settings import TextCollection
from diffusae.study.streams import recorded_blocks, source_determines, streams_of
from diffusae.study.study import Study

_OF_ENCODERS = ("name", "source", "revision", "variant", "dtype", "text_tokens")
"""Settings of the model that a text encoder's outputs depend on."""


class CollectText:
    """The study's captions as its text encoders see them."""

    what = "prompts"
    ragged = True
    keeps_pictures = False

    def __init__(self, study: Study) -> None:
        self.study = study

    def determines(self) -> dict[str, Any]:
        """The encoders, their layers and the captions."""
        study = self.study
        model = source_determines(study)
        return {
            "model": {name: model[name] for name in _OF_ENCODERS if name in model},
            "grid": study.part("grid"),
            "collection": study.part("collection"),
            "prompts": prompts_hash(study.prompts),
        }

    def prompts(self) -> list[Prompt]:
        """Every caption."""
        return self.study.prompts

    def begin(self, pipe: Any, description: Description) -> _Encoding:
        """Log which captions are cut off, and be ready."""
        return _Encoding(self.study, pipe, description)


class _Encoding:
    """Turns captions into batches of records."""

    def __init__(self, study: Study, pipe: Any, description: Description) -> None:
        model = ModelSettings.of(study.cfg)
        self.model, self.pipe = model, pipe
        self.start_token = TextCollection.of(study.cfg).start_token
        known = list_text_layers(pipe, text_tokens=model.text_tokens)
        self.layers = find_text_layers(known, recorded_blocks(study))
        self.streams = streams_of(study, description, lambda t: t, description.tokens)
        limits = {layer.tokenizer: layer.tokens for layer in self.layers.values()}
        self.header = {
            "collection": "text",
            "model": model.name,
            "source": source_determines(study)["source"],
            "start_token": self.start_token,
            "truncated_prompts": max(
                count_truncated(getattr(pipe, name), limit, study.prompts)
                for name, limit in limits.items()
            ),
        }

    def batches(self, prompts: Sequence[Prompt]) -> Iterator[Batch]:
        """Encode; every stream holds the tokens that its encoder's tokenizer makes of a caption."""
        size = pictures_at_once(self.model, self.pipe)
        for batch in batches_of(prompts, size):
            captured = capture_text(
                self.pipe,
                self.layers,
                [prompt.text for prompt in batch],
                text_tokens=self.model.text_tokens,
            )
            # Made here, since the tokenizers are the pipeline's own.
            records = [self._record(row, prompt, captured) for row, prompt in enumerate(batch)]
            yield Batch(len(batch), partial(iter, records))

    def _record(self, row: int, prompt: Prompt, captured: Mapping[str, Any]) -> CollectedSample:
        updates, positions, tokens = {}, {}, {}
        for stream in self.streams:
            layer, seen = self.layers[stream.block], captured[stream.block]
            tokenizer = layer.tokenizer_of(self.pipe)
            ids = seen.ids[row, : int(seen.lengths[row])].tolist()
            first = int(not self.start_token and ids[0] == tokenizer.bos_token_id and len(ids) > 1)
            updates[stream.folder] = numbers_of(seen.outputs[row, first : len(ids)])
            positions[stream.folder] = list(range(first, len(ids)))
            tokens[layer.tokenizer] = tokenizer.convert_ids_to_tokens(ids)
        return sample_of(prompt, updates=updates, positions=positions, meta={"tokens": tokens})
