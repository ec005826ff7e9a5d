"""Pictures with edits, and what the annotator finds in them: what the intervention evaluations and `steer` share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from diffusae.capture.generate import generate
from diffusae.interventions.edits import Change, Edit, PerPicture
from diffusae.interventions.steer import steer
from diffusae.interventions.windows import Window
from diffusae.prompts.prompt_set import Prompt
from diffusae.stages.model import load_model, sampling
from diffusae.stages.progress import progress_bar
from diffusae.stages.study import Study, build


@dataclass(frozen=True)
class Trial:
    """One picture to make: a prompt, and what is done to every edited block's updates (none: nothing)."""

    prompt: Prompt
    changes: tuple[Change | None, ...] = ()


class EditedPictures:
    """Generates pictures with the study's model, edited at the given blocks in one window.

    Args:
        blocks: names of hookpoints; a trial's changes are in their order.
        conditionings: the guidance branches that are edited.
        steps: of a generation; None: as many as the model's.
        preserve_norm: see `Edit`.
    """

    def __init__(
        self,
        study: Study,
        blocks: Sequence[str],
        *,
        window: Window,
        conditionings: Sequence[str],
        steps: int | None = None,
        preserve_norm: bool = False,
    ) -> None:
        self.model = study.cfg.model
        self.hookpoints = [self.model.hookpoints[block] for block in blocks]
        self.window, self.conditionings, self.preserve_norm = window, tuple(conditionings), preserve_norm
        self.steps = steps or self.model.steps
        self._study = study

    @cached_property
    def pipe(self) -> Any:
        """The model, loaded when the first picture is made."""
        return load_model(self.model)

    @cached_property
    def annotator(self) -> Any:
        """What finds objects and styles."""
        return build(self._study.cfg.annotator)

    def make(self, trials: Sequence[Trial], *, what: str) -> list[tuple[np.ndarray, Any]]:
        """The picture, uint8 [height, width, 3], and the annotation of every trial."""
        found: list[tuple[np.ndarray, Any]] = []
        size = self.model.batch_size
        with progress_bar(what, total=len(trials)) as (advance, _):
            for first in range(0, len(trials), size):
                batch = trials[first : first + size]
                images = self._generate(batch)
                found += zip(images, self.annotator.annotate(images), strict=True)
                advance(len(batch))
        return found

    def _generate(self, batch: Sequence[Trial]) -> np.ndarray:
        def run() -> np.ndarray:
            made = generate(
                self.pipe,
                [trial.prompt.text for trial in batch],
                [trial.prompt.seed for trial in batch],
                **sampling(self.model, steps=self.steps),
            )
            assert made.images is not None
            return made.images

        edits = [
            Edit(
                hookpoint,
                PerPicture(changes),
                window=self.window,
                conditionings=self.conditionings,
                preserve_norm=self.preserve_norm,
            )
            for number, hookpoint in enumerate(self.hookpoints)
            if any(changes := [trial.changes[number] if trial.changes else None for trial in batch])
        ]
        if not edits:
            return run()
        with steer(self.pipe, edits):
            return run()
