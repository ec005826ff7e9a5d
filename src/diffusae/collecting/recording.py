"""What is collected, as the shared machinery of `collect` sees it: one class a kind, chosen by
`collection.kind`.

Groups, shards, resuming, verifying, locks and tasks are the same for all kinds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from diffusae.activations.schema import ImageRecord, Stream
from diffusae.backbone.describe import Description
from diffusae.collecting.generation import RecordGeneration
from diffusae.collecting.pictures import RecordPictures
from diffusae.collecting.texts import RecordText
from diffusae.jobs.progress import Advance
from diffusae.prompts.prompt_set import Prompt
from diffusae.study.study import Study


class Begun(Protocol):
    """A recording with the model at hand."""

    streams: Sequence[Stream]
    header: dict[str, Any]
    """What the manifest tells of the collection."""

    def records(self, prompts: Sequence[Prompt], advance: Advance) -> Iterator[ImageRecord]:
        """One record a prompt, all of one split; `advance(count)` is called after each batch."""
        ...


class Recording(Protocol):
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
        """Ready to record with a loaded model."""
        ...


def recording_of(study: Study) -> Recording:
    """The recording that a study asks for."""
    kinds: dict[str, type] = {
        "generation": RecordGeneration,
        "pictures": RecordPictures,
        "text": RecordText,
    }
    return kinds[study.kind](study)
