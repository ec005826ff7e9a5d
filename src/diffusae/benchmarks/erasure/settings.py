"""Settings of the erasure benchmark, `conf/evaluation/erasure.yaml`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from diffusae.errors import UserError, unknown
from diffusae.evaluation.metric_settings import Count, EditedSettings
from diffusae.interventions import defences as kinds
from diffusae.interventions.safe_guidance import preset
from diffusae.prompts.attacks import KINDS
from diffusae.settings import Settings, Within

BASELINES = (
    kinds.NEGATIVE_PROMPT, kinds.SAFE_GUIDANCE, kinds.SAFREE, kinds.TRASCE, kinds.WORD_REMOVAL,
    kinds.ABLATION,
)  # fmt: skip
TRANSFER, DEFENDED = "tokens_transfer", "tokens_defended"
SEARCHED = (TRANSFER, DEFENDED)
"""Tokens found against the undefended model, and against the defended one itself."""
HOW_READ = ("format", "column", "delimiter", "encoding")
"""How a user's list is read, as captions are (docs/prompts.md)."""
_LIST = ("name", "path", *HOW_READ, "target", "most")


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is to go, and the concept prompts of it."""

    name: str
    prompts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Strengths:
    """Of each kind of defence that has some; larger removes more."""

    text_edit: tuple[float, ...]
    """-lambda."""
    update_ablation: tuple[float, ...]
    """The concept's codes times minus this; 0 takes them out."""
    safe_guidance: tuple[str, ...]
    """The paper's presets."""
    safree: tuple[float, ...]
    """gamma: of 50 steps, the most that see the safe states."""
    trasce: tuple[float, ...]
    """The scale of the gradient; 0: negative prompting alone."""


@dataclass(frozen=True, kw_only=True)
class Search(Settings, part="evaluation.search"):
    """A search for tokens that bring the target back."""

    length: Count
    """Tokens."""
    rounds: Count
    candidates: Count
    """Of each round."""
    pictures: Count
    """That show the target, of the tuning split."""
    steps: Count
    """Noise levels."""


@dataclass(frozen=True, kw_only=True)
class Updates:
    """The collection and autoencoders of updates behind `update_ablation`."""

    blocks: tuple[str, ...]
    timesteps: tuple[float, ...]
    counts: Mapping[str, int]
    sae: Mapping[str, Any]
    """Values in the place of the sae group's."""
    percentile: float
    """Latents whose score lies above it are the concept's."""


@dataclass(frozen=True, kw_only=True)
class Ablations:
    """Other autoencoders for the text edit."""

    prompts: int
    """Of either kind."""
    strengths: tuple[float, ...] | None
    """None: those of the text edit."""
    cells: tuple[Mapping[str, Any], ...]
    """The values of each that differ from the cell's."""


@dataclass(frozen=True, kw_only=True)
class ErasureSettings(EditedSettings):
    """What is to go, and what is tried against it. Of each target, `tune_prompts` name it and as
    many do not; `test_prompts` likewise.
    """

    check: Mapping[str, Any] | None
    """What says that a target is in a picture; None or empty: the annotator."""
    targets: tuple[Target, ...]
    defences: tuple[str, ...]
    """The baselines."""
    strengths: Strengths
    trasce_sigma: Annotated[float, Within(1e-6, 1e6)]
    """The distance of two predictions at which TraSCE's pull has fallen to 1/e."""
    conditionings: tuple[Literal["cond", "uncond"], ...]
    """Encodings that the text edit acts on."""
    attacks: tuple[str, ...]
    synonyms: Mapping[str, tuple[str, ...]]
    """By target."""
    paraphrases: tuple[str, ...]
    """With {caption} and {target}."""
    misspelling_edits: int
    """Letters."""
    search: Search
    lists: tuple[Mapping[str, Any], ...]
    """A user's own adversarial prompts: name, path, target, and how the file is read."""
    updates: Updates
    ablations: Ablations

    @property
    def concept_prompts(self) -> dict[str, list[str]]:
        """By target."""
        return {target.name: list(target.prompts) for target in self.targets}

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if not self.targets:
            yield "evaluation.targets is empty; name a noun or a style to erase"
        for target in self.targets:
            if not target.prompts:
                yield (
                    f"evaluation.targets.{target.name} has no concept prompt; say what it is called"
                )
        for defence in self.defences:
            if defence not in BASELINES:
                yield str(unknown("defence in evaluation.defences:", defence, BASELINES))
        for name in (kinds.TEXT_EDIT, kinds.ABLATION, kinds.SAFREE, kinds.TRASCE):
            values = getattr(self.strengths, name)
            if not values or min(values) < 0:
                yield (
                    f"evaluation.strengths.{name}={list(values)} must hold numbers from 0; give"
                    " some"
                )
        for name in self.strengths.safe_guidance:
            try:
                preset(name)
            except UserError as error:
                yield str(error)
        yield from self._attack_faults()
        for place, values in enumerate(self.lists):
            yield from self._list_faults(f"evaluation.lists[{place}]", values)

    def _attack_faults(self) -> Iterator[str]:
        known = (*KINDS, *SEARCHED)
        for attack in self.attacks:
            if attack not in known:
                yield str(unknown("attack in evaluation.attacks:", attack, known))
        for target in self.targets if "synonym" in self.attacks else ():
            if not self.synonyms.get(target.name):
                yield (
                    f"evaluation.synonyms knows none of {target.name!r}; add some, or leave the"
                    " attack out"
                )

    def _list_faults(self, name: str, values: Mapping[str, Any]) -> Iterator[str]:
        for key in values:
            if key not in _LIST:
                yield str(unknown(f"value in {name}:", key, _LIST))
        for key in ("name", "path", "target"):
            if not values.get(key):
                yield f"{name}.{key} is missing; give it"
        if (target := values.get("target")) and target not in self.concept_prompts:
            yield str(unknown(f"target of {name}:", target, self.concept_prompts))
