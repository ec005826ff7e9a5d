"""What `collection.kind` chooses: one collector for pictures that are generated, one for given
pictures, one for texts.

Groups, shards, resuming, verifying, locks and tasks are the same for all kinds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from diffusae.activations.schema import Stream
from diffusae.backbone.describe import Description
from diffusae.collecting.batch import Batch
from diffusae.collecting.generation import CollectGeneration
from diffusae.collecting.pictures import CollectPictures
from diffusae.collecting.texts import CollectText
from diffusae.prompts.prompt_set import Prompt
from diffusae.study.study import Study


class Begun(Protocol):
    """A collector whose model is loaded."""

    streams: Sequence[Stream]
    header: dict[str, Any]
    """What the manifest says of the collection."""

    def batches(self, prompts: Sequence[Prompt]) -> Iterator[Batch]:
        """What the model gives for these prompts, all of one split and in their order."""
        ...


class Collector(Protocol):
    """One kind of collection before the model loads."""

    what: str
    """What is counted while it runs."""
    ragged: bool
    """Whether samples differ in length."""
    keeps_pictures: bool

    def determines(self) -> dict[str, Any]:
        """What decides the bytes, beside the seed, the size of groups and what is thinned."""
        ...

    def prompts(self) -> list[Prompt]:
        """What is collected, in groups' order; refused here where it cannot be had."""
        ...

    def begin(self, pipe: Any, description: Description) -> Begun:
        """Load nothing more, and be ready."""
        ...


def collector_of(study: Study) -> Collector:
    """The collector that a study asks for."""
    kinds: dict[str, type] = {
        "generation": CollectGeneration,
        "pictures": CollectPictures,
        "text": CollectText,
    }
    return kinds[study.kind](study)
