"""Defences that keep a model from drawing a concept, behind one interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from diffusae.errors import refuse_text
from diffusae.interventions.edits import Edit
from diffusae.interventions.safe_guidance import preset, safe_guidance
from diffusae.interventions.safree import Safree, safree
from diffusae.interventions.steer import steer
from diffusae.interventions.text import TextEdit
from diffusae.interventions.trasce import TrajectorySteering, trajectory_steering

NONE, NEGATIVE_PROMPT, SAFE_GUIDANCE = "none", "negative_prompt", "safe_guidance"
WORD_REMOVAL, ABLATION, TEXT_EDIT = "word_removal", "update_ablation", "text_edit"
SAFREE, TRASCE = "safree", "trasce"


def _as_it_is(prompt: str) -> str:
    return prompt


@dataclass(frozen=True)
class Defence:
    """One defence at one strength.

    Attributes:
        name: its kind.
        strength: in the unit of the kind, 0 where it has none; larger removes more.
        rewrite: changes a prompt.
        negative_prompt: replaces the empty prompt of guidance; None: no replacement.
        around: pipeline -> the context in which to call it.
    """

    name: str
    strength: float = 0.0
    rewrite: Callable[[str], str] = _as_it_is
    negative_prompt: str | None = None
    around: Callable[[Any], AbstractContextManager[Any]] = nullcontext

    @property
    def only_words(self) -> bool:
        """Whether pictures of prompts that `rewrite` leaves alone stay the same."""
        return self.negative_prompt is None and self.around is nullcontext


def no_defence() -> Defence:
    """The model without any change."""
    return Defence(NONE)


def negative_prompt(concept: str) -> Defence:
    """Guidance away from the concept's prompt instead of from the empty one."""
    return Defence(NEGATIVE_PROMPT, negative_prompt=concept)


def word_removal(without: Callable[[str], str]) -> Defence:
    """The target's word is removed from prompts by `without`."""
    return Defence(WORD_REMOVAL, rewrite=without)


def safe(concept: str, presets: Sequence[str], **asked: Any) -> list[Defence]:
    """Safe latent guidance at the presets of these names; strengths count from 1 in their order.

    Args:
        asked: as for `capture.conditions.conditions`.
    """
    refuse_text("presets", presets)

    def at(name: str) -> Callable[[Any], AbstractContextManager[Any]]:
        settings = preset(name)
        return lambda pipe: safe_guidance(pipe, concept, settings, **asked)

    return [
        Defence(SAFE_GUIDANCE, float(place), around=at(name))
        for place, name in enumerate(presets, start=1)
    ]


def filtered(words: Sequence[str], gammas: Sequence[float]) -> list[Defence]:
    """SAFREE with the concept's words; a strength is gamma, of 50 steps."""

    def at(gamma: float) -> Callable[[Any], AbstractContextManager[Any]]:
        settings = Safree(gamma=gamma)
        return lambda pipe: safree(pipe, words, settings)

    return [Defence(SAFREE, gamma, around=at(gamma)) for gamma in gammas]


def steered_trajectory(
    concept: str, scales: Sequence[float], *, sigma: float, **asked: Any
) -> list[Defence]:
    """TraSCE; a strength is the scale of the gradient.

    Args:
        asked: as for `capture.conditions.conditions`.
    """

    def at(scale: float) -> Callable[[Any], AbstractContextManager[Any]]:
        settings = TrajectorySteering(scale, sigma)
        return lambda pipe: trajectory_steering(pipe, concept, settings, **asked)

    return [Defence(TRASCE, scale, around=at(scale)) for scale in scales]


def text_edit(make: Callable[[float], TextEdit], strengths: Sequence[float]) -> list[Defence]:
    """The text edit away from a concept; a strength is -lambda."""
    return [_edited(TEXT_EDIT, strength, [make(-strength)]) for strength in strengths]


def update_ablation(
    make: Callable[[float], list[Edit]], strengths: Sequence[float]
) -> list[Defence]:
    """The concept's codes in updates are multiplied by minus the strength; 0 ablates."""
    return [_edited(ABLATION, strength, make(-strength)) for strength in strengths]


def _edited(name: str, strength: float, edits: Sequence[Edit | TextEdit]) -> Defence:
    return Defence(name, strength, around=lambda pipe: steer(pipe, edits))
