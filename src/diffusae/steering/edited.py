"""Pictures with edits, and what the annotator finds in them: what the intervention evaluations and
`steer` share.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusae.backbone.branches import Branches
from diffusae.backbone.schedule import t_of
from diffusae.backbone.settings import ModelSettings
from diffusae.capture.conditions import conditions
from diffusae.capture.generate import generate
from diffusae.capture.replay import Outputs, recorded_outputs, replayed_outputs
from diffusae.interventions.edits import ROUNDING, Change, Edit, PerPicture
from diffusae.interventions.exchange import Exchange, exchanged_conditions
from diffusae.interventions.steer import steer
from diffusae.interventions.text import TextEdit
from diffusae.interventions.windows import Window
from diffusae.jobs.progress import progress_bar
from diffusae.prompts.prompt_set import Prompt
from diffusae.study.model import load_model, sampling
from diffusae.study.pictures_at_once import pictures_at_once
from diffusae.study.study import Study, build


@dataclass(frozen=True)
class Place:
    """Where an edit acts: a block's name in the model's hookpoints, and a part of the
    generation.
    """

    block: str
    window: Window


@dataclass(frozen=True)
class Trial:
    """One picture to make: a prompt, what is done at every place (none: nothing), what is done to
    the text, and another caption in a part of the generation.
    """

    prompt: Prompt
    changes: tuple[Change | None, ...] = ()
    text: tuple[TextEdit, ...] = ()
    """Edits of its encoding, which hold for a whole batch."""
    exchange: Exchange | None = None
    also: tuple[str, ...] = ()
    """Further captions whose nouns the annotator is to look for."""

    @property
    def looked_for(self) -> str:
        """A caption with all nouns that the annotator is to look for."""
        other = () if self.exchange is None else (self.exchange.caption,)
        return " , ".join([self.prompt.text, *other, *self.also])

    def goes_with(self, other: Trial, *, recorded: bool = True) -> bool:
        """Whether both can be in one batch: edited pictures with edited ones, with the same edits
        of text, and with exchanges that begin at the same moment. Where nothing of unedited
        pictures is `recorded`, they can stand beside edited ones.
        """
        own, others = (
            (bool(one.changes) and recorded, one.text, one.exchange and one.exchange.window[0])
            for one in (self, other)
        )
        return own == others


class EditedPictures:
    """Generates pictures with the study's model, edited at the given places.

    What the denoiser returns for a prompt before the first edit is the same in all its pictures: it
    is kept from the prompt's first picture without an edit, and not computed again.

    Args:
        places: a trial's changes are in their order; none where only text is edited.
        conditionings: the guidance branches that are edited.
        steps: of a generation; None: as many as the model's.
        preserve_norm: see `Edit`.
        last_exchange: the t at which the last exchange of captions begins; None: there is none.
        pipe: the study's model where it is loaded already; None: it is loaded when it is needed.
    """

    def __init__(
        self,
        study: Study,
        places: Sequence[Place],
        *,
        conditionings: Sequence[str],
        steps: int | None = None,
        preserve_norm: bool = False,
        last_exchange: float | None = None,
        pipe: Any = None,
    ) -> None:
        if pipe is not None:
            self.pipe = pipe
        self.model = ModelSettings.of(study.cfg)
        self.places = tuple(places)
        self.conditionings, self.preserve_norm = tuple(conditionings), preserve_norm
        self.steps = steps or self.model.steps
        self._first = max((place.window[0] for place in places), default=math.inf)
        self._kept = self._first if last_exchange is None else last_exchange
        self._study = study
        self._before: dict[str, dict[tuple[float, Branches], Tensor]] = {}

    @cached_property
    def pipe(self) -> Any:
        """The model, loaded when the first picture is made."""
        return load_model(self.model)

    @property
    def device(self) -> Any:
        """Where the model is, and where the autoencoders of its edits have to be."""
        return self.pipe.device

    @cached_property
    def annotator(self) -> Any:
        """What finds objects and styles."""
        return build(self._study.cfg.annotator, "annotator")

    def make(self, trials: Sequence[Trial], *, what: str) -> list[tuple[np.ndarray, Any]]:
        """The picture, uint8 [height, width, 3], and the annotation of every trial."""
        annotated: list[tuple[np.ndarray, Any]] = []
        for batch, images in self._made(trials, what):
            captions = [trial.looked_for for trial in batch]
            annotated += zip(images, self.annotator.annotate(images, captions), strict=True)
        return annotated

    def pictures(self, trials: Sequence[Trial], *, what: str) -> list[np.ndarray]:
        """The picture of every trial, uint8 [height, width, 3]; no annotator is needed."""
        return [image for _, images in self._made(trials, what) for image in images]

    def _made(
        self, trials: Sequence[Trial], what: str
    ) -> Iterator[tuple[Sequence[Trial], np.ndarray]]:
        with progress_bar(what, total=len(trials)) as (advance, _):
            for batch in self._batches(trials):
                yield batch, self._generate(batch)
                advance(len(batch))

    def _batches(self, trials: Sequence[Trial]) -> Iterator[Sequence[Trial]]:
        """Trials in their order; no batch holds two that do not go together."""
        start, size = 0, pictures_at_once(self.model, self.pipe) if trials else 0
        recorded = self._kept < 1 - ROUNDING  # an edit from the first step on leaves none before
        for end in range(1, len(trials) + 1):
            full = end - start == size
            if (
                end == len(trials)
                or full
                or not trials[end].goes_with(trials[start], recorded=recorded)
            ):
                yield trials[start:end]
                start = end

    def _generate(self, batch: Sequence[Trial]) -> np.ndarray:
        changes = [
            [trial.changes[n] if trial.changes else None for trial in batch]
            for n in range(len(self.places))
        ]
        hookpoints = self._study.hookpoints
        edits = [
            Edit(
                hookpoints[place.block],
                PerPicture(per_picture),
                window=place.window,
                conditionings=self.conditionings,
                preserve_norm=self.preserve_norm,
            )
            for place, per_picture in zip(self.places, changes, strict=True)
            if any(per_picture)
        ]
        text = batch[0].text
        exchanges = [trial.exchange for trial in batch if trial.exchange is not None]
        with ExitStack() as stack:
            if edits or text or exchanges:
                others = self._conditions(exchanges) if exchanges else {}
                # From another encoding the denoiser returns something else from the first step on.
                if not text and (before := self._replayed(batch)):
                    stack.enter_context(replayed_outputs(self.pipe, before, before))
                if edits or text:
                    stack.enter_context(steer(self.pipe, [*text, *edits]))
                if exchanges:
                    stack.enter_context(exchanged_conditions(self.pipe, exchanges, others))
                return self._run(batch)
            outputs = stack.enter_context(recorded_outputs(self.pipe))
            images = self._run(batch)
        self._keep(batch, outputs)
        return images

    def _run(self, batch: Sequence[Trial]) -> np.ndarray:
        made = generate(
            self.pipe,
            [trial.prompt.text for trial in batch],
            [trial.prompt.seed for trial in batch],
            **sampling(self.model, steps=self.steps),
        )
        assert made.images is not None
        return made.images

    def _conditions(self, exchanges: Sequence[Exchange]) -> dict[str, Any]:
        asked = sampling(self.model)
        del asked["steps"]
        return conditions(self.pipe, [one.caption for one in exchanges], "cond", **asked)

    def _keep(self, batch: Sequence[Trial], outputs: Outputs) -> None:
        """The denoiser's outputs before the first edit, by prompt, timestep and pass: a row a
        branch of the pass.

        They wait on the CPU, where one copy brings them: an evaluation has hundreds of prompts. A
        pipeline that takes another output than a tuple is not replayed.
        """
        samples = {
            (timestep, branches): output[0]
            for index, (timestep, passes) in enumerate(outputs.items())
            for branches, output in passes.items()
            if t_of(index, len(outputs)) > self._kept + ROUNDING and isinstance(output, tuple)
        }
        if not samples:
            return
        there = torch.cat(list(samples.values()))
        parts = there.cpu().split([len(sample) for sample in samples.values()])
        for row, trial in enumerate(batch):
            self._before[trial.prompt.image_id] = {
                place: part[row :: len(batch)] for place, part in zip(samples, parts, strict=True)
            }

    def _replayed(self, batch: Sequence[Trial]) -> Outputs:
        """What the denoiser returns for this batch before its first edit; empty where that is not
        known of all. One copy brings it to the model.
        """
        exchange = batch[0].exchange
        first = self._first if exchange is None else exchange.window[0]
        known = [self._before.get(trial.prompt.image_id, {}) for trial in batch]
        times = list(dict.fromkeys(timestep for timestep, _ in known[0]))
        places = [
            (timestep, branches)
            for timestep, branches in known[0]
            if t_of(times.index(timestep), self.steps) > first + ROUNDING
            and all((timestep, branches) in outputs for outputs in known)
        ]
        if not places:
            return {}
        parts = [
            torch.stack([outputs[place] for outputs in known], dim=1).flatten(0, 1)
            for place in places
        ]
        there = torch.cat(parts).to(self.device).split([len(part) for part in parts])
        replayed: Outputs = {}
        for (timestep, branches), part in zip(places, there, strict=True):
            replayed.setdefault(timestep, {})[branches] = (part,)
        return replayed
