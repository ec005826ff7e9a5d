"""Pictures one at a time, as they are, recorded, and edited by an edit list.

The explorer and `diffusae steer edits=...` both make their pictures here. A batch holds one
picture, so that no bit of it depends on others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from diffusae.activations.schema import Cell
from diffusae.backbone.schedule import t_of
from diffusae.backbone.settings import ModelSettings
from diffusae.capture.generate import generate
from diffusae.capture.previews import Watch, watched_steps
from diffusae.capture.replay import Outputs, recorded_outputs, replayed_outputs
from diffusae.exploring.listed_edits import PreparedEdits
from diffusae.exploring.recording import RecordedRun, record_run
from diffusae.interventions.edits import ROUNDING
from diffusae.interventions.steer import steer
from diffusae.study.model import sampling
from diffusae.study.study import Study

KEPT = 8
"""Unedited generations whose pictures and denoiser's outputs are kept."""


@dataclass(frozen=True)
class _Unedited:
    """A picture without edits, and what the denoiser returned for it at every step."""

    picture: np.ndarray
    outputs: Outputs


class PictureMaker:
    """Makes pictures with a study's model.

    An unedited picture is made once for as long as it is kept. What the denoiser returned before
    the first edit is used again: it is the same to the bit.

    Args:
        load: gives the model; it is called when the model is needed.
        settings: the study's configuration.
    """

    def __init__(self, load: Callable[[], Any], settings: Study) -> None:
        self._load, self.settings = load, settings
        self.model = ModelSettings.of(settings.cfg)
        self._kept: OrderedDict[tuple[str, int], _Unedited] = OrderedDict()

    @cached_property
    def pipe(self) -> Any:
        """The diffusers pipeline."""
        return self._load()

    def has(self, prompt: str, seed: int) -> bool:
        """Whether the unedited picture is kept, so that it is not made again."""
        return (prompt, seed) in self._kept

    def unedited(self, prompt: str, seed: int, watch: Watch | None = None) -> np.ndarray:
        """The picture as it is, uint8 [height, width, 3]."""
        if (kept := self._known(prompt, seed)) is not None:
            return kept.picture
        with recorded_outputs(self.pipe) as outputs, self._watched(watch):
            picture = self._picture(prompt, seed)
        self._keep(prompt, seed, picture, outputs)
        return picture

    def recorded(
        self, prompt: str, seed: int, cells: Sequence[Cell], watch: Watch | None = None
    ) -> RecordedRun:
        """The picture as it is, with what these cells did."""
        with recorded_outputs(self.pipe) as outputs, self._watched(watch):
            run = record_run(self.pipe, self.settings, prompt, seed=seed, cells=cells)
        self._keep(prompt, seed, run.picture, outputs)
        return run

    def edited(
        self, prompt: str, seed: int, edits: PreparedEdits, watch: Watch | None = None
    ) -> np.ndarray:
        """The picture with edits, uint8 [height, width, 3]."""
        kept = self._known(prompt, seed)
        before = {} if kept is None else self._before(kept.outputs, edits.first)
        with ExitStack() as stack:
            if before:
                stack.enter_context(replayed_outputs(self.pipe, before, before))
            stack.enter_context(steer(self.pipe, edits.all))
            stack.enter_context(self._watched(watch))
            return self._picture(prompt, seed)

    def _picture(self, prompt: str, seed: int) -> np.ndarray:
        made = generate(self.pipe, [prompt], [seed], **sampling(self.model))
        assert made.images is not None
        return made.images[0]

    def _watched(self, watch: Watch | None) -> AbstractContextManager[None]:
        return nullcontext() if watch is None else watched_steps(self.pipe, watch)

    def _known(self, prompt: str, seed: int) -> _Unedited | None:
        if (prompt, seed) in self._kept:
            self._kept.move_to_end((prompt, seed))
        return self._kept.get((prompt, seed))

    def _keep(self, prompt: str, seed: int, picture: np.ndarray, outputs: Outputs) -> None:
        self._kept[prompt, seed] = _Unedited(picture, outputs)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    def _before(self, outputs: Outputs, first: float) -> Outputs:
        """The outputs of the steps before the first edit.

        A pipeline that takes another output than a tuple is not replayed.
        """
        return {
            timestep: passes
            for index, (timestep, passes) in enumerate(outputs.items())
            if t_of(index, len(outputs)) > first + ROUNDING
            and all(isinstance(output, tuple) for output in passes.values())
        }
