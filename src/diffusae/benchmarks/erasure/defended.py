"""Pictures that a defended model makes, and what is found in them: what every figure of the erasure
benchmark rests on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from diffusae.backbone.settings import ModelSettings
from diffusae.capture.generate import generate
from diffusae.concepts.picture_checks import PictureCheck
from diffusae.concepts.words import Vocabulary
from diffusae.errors import UserError
from diffusae.evaluation.alignment import Aligned, Asked, alignment, asked_for, shows
from diffusae.interventions.defences import Defence
from diffusae.jobs.progress import progress_bar
from diffusae.prompts.prompt_set import Prompt
from diffusae.study.model import load_model, sampling
from diffusae.study.pictures_at_once import pictures_at_once
from diffusae.study.study import Study, build


@dataclass(frozen=True)
class Ask:
    """One picture to ask for: the prompt, attacked or not, and the caption that it was made of, by
    which it is judged.
    """

    image_id: str
    seed: int
    prompt: str
    caption: str

    @classmethod
    def plain(cls, prompt: Prompt) -> Ask:
        """A caption as it is."""
        return cls(prompt.image_id, prompt.seed, prompt.text, prompt.text)


@dataclass(frozen=True, eq=False)
class Seen:
    """What a picture shows.

    Attributes:
        found: the target.
        aligned: how much of the caption, the target left out.
        features: the annotator's, [d]; None where it has none.
        picture: uint8 [height, width, 3].
    """

    found: bool
    aligned: Aligned
    features: np.ndarray | None
    picture: np.ndarray


class DefendedPictures:
    """Generates pictures with the study's model under defences, and looks at them.

    Args:
        steps: of a generation; None: as many as the model's.
        check: the configured part that says whether a target is in a picture; None or empty: the
            annotator.
    """

    def __init__(
        self, study: Study, *, steps: int | None, check: Mapping[str, Any] | None = None
    ) -> None:
        self._study, self.model = study, ModelSettings.of(study.cfg)
        self.steps = steps or self.model.steps
        self._check = check
        self.made = 0
        """Pictures generated so far."""
        self._plain: dict[tuple[str, int], np.ndarray] = {}

    @cached_property
    def pipe(self) -> Any:
        """The model, loaded when the first picture is made."""
        return load_model(self.model)

    @cached_property
    def annotator(self) -> Any:
        """What finds objects and styles."""
        return build(self._study.cfg.annotator, "annotator")

    @cached_property
    def check(self) -> PictureCheck | None:
        """What says that a target is there, where that is not the annotator."""
        return build(self._check, "check") if self._check else None

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The annotator's nouns."""
        return Vocabulary.of(self.annotator.labels)

    @property
    def asked(self) -> dict[str, Any]:
        """The arguments of `generate` for every picture, without the steps."""
        arguments = sampling(self.model)
        arguments.pop("steps")
        return arguments

    def read(self, caption: str) -> Asked:
        """What a caption asks for."""
        return asked_for(caption, self.vocabulary.named_in, self.annotator.factors)

    def require(self, targets: Sequence[str]) -> None:
        """Refuse targets that nothing here can tell."""
        if self.check is None:
            for target in targets:
                shows(target, detected=(), recognised={}, colours={}, **self._known)

    def see(self, asks: Sequence[Ask], defence: Defence, target: str, *, what: str) -> list[Seen]:
        """One answer for each, in their order."""
        pictures = self._pictures(asks, defence, what)
        features = getattr(self.annotator, "features", None)
        seen: list[Seen] = []
        size = pictures_at_once(self.model, self.pipe)
        for start in range(0, len(asks), size):
            batch = asks[start : start + size]
            images = np.stack(pictures[start : start + size])
            notes = self.annotator.annotate(images, [ask.caption for ask in batch])
            described = None if features is None else np.asarray(features(images).float())
            checked = None if self.check is None else self.check.shows(images)
            for place, (ask, note) in enumerate(zip(batch, notes, strict=True)):
                seen.append(
                    Seen(
                        found=(
                            shows(
                                target,
                                detected=note.masks,
                                recognised=note.factors,
                                colours=note.colours,
                                **self._known,
                            )
                            if checked is None
                            else checked[place]
                        ),
                        aligned=alignment(
                            self.read(ask.caption).without(target),
                            detected=note.masks,
                            colours=note.colours,
                            factors=note.factors,
                        ),
                        features=None if described is None else described[place],
                        picture=images[place],
                    )
                )
        return seen

    @cached_property
    def _known(self) -> Mapping[str, Any]:
        return {"nouns": self.vocabulary, "factors": self.annotator.factors}

    def _pictures(self, asks: Sequence[Ask], defence: Defence, what: str) -> list[np.ndarray]:
        """Made anew but for prompts of an undefended model that were asked before."""
        wanted = [(defence.rewrite(ask.prompt), ask.seed) for ask in asks]
        if blank := next(
            (ask for ask, (text, _) in zip(asks, wanted, strict=True) if not text.strip()), None
        ):
            raise UserError(
                f"{defence.name} leaves nothing of the prompt {blank.prompt!r}; leave it out"
            )
        known = self._plain if defence.only_words else {}
        new = [asked for asked in dict.fromkeys(wanted) if asked not in known]
        images = dict(known)
        size = pictures_at_once(self.model, self.pipe)
        with progress_bar(what, total=len(new)) as (advance, _), defence.around(self.pipe):
            for start in range(0, len(new), size):
                batch = new[start : start + size]
                made = generate(
                    self.pipe,
                    [text for text, _ in batch],
                    [seed for _, seed in batch],
                    steps=self.steps,
                    negative_prompt=defence.negative_prompt,
                    **self.asked,
                )
                assert made.images is not None
                images.update(zip(batch, made.images, strict=True))
                advance(len(batch))
        self.made += len(new)
        if defence.only_words:
            self._plain.update({asked: images[asked] for asked in new})
        return [images[asked] for asked in wanted]

    def forget(self) -> None:
        """Let go of the pictures of the undefended model."""
        self._plain.clear()
