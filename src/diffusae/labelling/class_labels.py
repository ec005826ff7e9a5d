"""Pictures with class labels at one cell, from which purity and knowledge start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import read_updates, require_sound
from diffusae.activations.schema import Stream
from diffusae.errors import UserError, together, unknown
from diffusae.parsing import of_type

NO_CLASS = -1
Tasks = Mapping[str, Sequence[str]]
"""Task -> its class names; the number of a class is its place among them."""


@dataclass(frozen=True, eq=False)
class ClassifiedSplit:
    """One split at one stream.

    Attributes:
        updates: as stored.
        classes: task -> the number of every picture's class, or `NO_CLASS`.
    """

    image_ids: list[str]
    updates: Float[np.ndarray, "n P d_in"]
    classes: dict[str, Int[np.ndarray, " n"]]

    def classified(self, task: str) -> Int[np.ndarray, " m"]:
        """The pictures with a label in this task."""
        return np.flatnonzero(self.classes[task] != NO_CLASS)


def class_tasks(manifest: Manifest, chosen: Sequence[str] | None) -> Tasks:
    """The tasks of a collection; some of them where `chosen` names these.

    Raises:
        UserError: a collection without labels, or tasks that it does not have.
    """
    kind = dict[str, list[str]] | None
    tasks = of_type(
        manifest.header.get("label_tasks"), kind, "label_tasks of the collection's manifest"
    )
    if not tasks:
        raise UserError(
            "this collection carries no class labels; collect given pictures with labels, such as"
            " collection=pictures_world"
        )
    together(
        str(unknown("task in evaluation.tasks:", task, tasks))
        for task in chosen or ()
        if task not in tasks
    )
    return {task: list(tasks[task]) for task in chosen or tasks}


def classified_split(
    root: Path, manifest: Manifest, stream: Stream, split: str, tasks: Tasks
) -> ClassifiedSplit:
    """Read one split with its labels; its shards are verified first.

    Raises:
        UserError: a damaged shard, thinned positions, or a label that is none of its task's
            classes.
    """
    require_sound(root, manifest, streams=[stream.folder])
    shards = manifest.shards(stream.folder, split)
    if manifest.positions(stream, split) != stream.positions:
        raise UserError(
            f"split {split} keeps {manifest.positions(stream, split)} of {stream.positions}"
            f" positions of {stream.folder}, and a picture's average needs all; choose a split that"
            " is not thinned"
        )
    n = sum(shard.samples for shard in shards)
    updates = np.empty((n, stream.positions, stream.d_in), dtype=manifest.numbers.read)
    classes = {task: np.full(n, NO_CLASS) for task in tasks}
    numbers = {
        task: {name: number for number, name in enumerate(names)} for task, names in tasks.items()
    }
    image_ids = []
    for row, sample in enumerate(read_updates(root, manifest, stream, split, shards=shards)):
        updates[row] = sample.updates
        image_ids.append(sample.image_id)
        for task, name in sample.meta.get("labels", {}).items():
            if task not in tasks:
                continue
            if name not in numbers[task]:
                raise UserError(
                    f"picture {sample.image_id} has the {task} label {name!r}, which the manifest"
                    f" does not list ({', '.join(tasks[task])}); collect again"
                )
            classes[task][row] = numbers[task][name]
    return ClassifiedSplit(image_ids, updates, classes)


def caption_of(meta: Mapping[str, Any]) -> str:
    """A generated picture's prompt; a given one's labels, or its name where it has none."""
    labels = meta.get("labels")
    return meta["prompt"] if labels is None else ", ".join(labels.values()) or meta["name"]
