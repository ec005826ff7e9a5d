"""The erasure benchmark as the report reads it: trade-off curves, attacks by defence, and other
autoencoders.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from diffusae.evaluation.erasure import ErasurePoint, SearchedTokens
from diffusae.evaluation.result import NO_DATA, Estimate
from diffusae.report.study import ErasureRun

NONE, OWN = "none", "text_edit"
PLAIN, OTHERS = "plain", "others"
DEFENCES = (
    NONE, OWN, "negative_prompt", "safe_guidance", "safree", "trasce", "word_removal",
    "update_ablation",
)  # fmt: skip
"""In the order of the page; others follow."""
_ALIGNED = "aligned"
HARMS = ("nouns_found", "style_reached", _ALIGNED, "kernel_distance")


@dataclass(frozen=True)
class Trade:
    """One defence at one strength: attack success on plain prompts, and what is left of the others'
    alignment.
    """

    strength: float
    attack: Estimate
    aligned: Estimate
    chosen: bool


@dataclass(frozen=True)
class Line:
    """A defence at its chosen strength: attack success by kind of prompt and what is left, missing:
    no data.
    """

    defence: str
    strength: float
    attacks: Mapping[str, Estimate]
    harms: Mapping[str, Estimate]


@dataclass(frozen=True)
class Variant:
    """Another autoencoder for the text edit at one strength."""

    name: str
    strength: float
    attack: Estimate
    aligned: Estimate


@dataclass(frozen=True, eq=False)
class Target:
    """What is shown of one target.

    Attributes:
        curves: defence to its strengths, from the weakest on.
        lines: the table of attacks.
        kinds: its columns.
        variants: the study's own autoencoder first, on the same prompts as all their pictures.
        tokens: what searches found.
    """

    name: str
    curves: Mapping[str, Sequence[Trade]]
    lines: Sequence[Line]
    kinds: Sequence[str]
    variants: Sequence[Variant]
    tokens: Sequence[SearchedTokens]


def targets_of(run: ErasureRun) -> list[Target]:
    """Every target of an evaluation, in the order of its rows."""
    tested = [point for point in run.points if point.split == "test"]
    return [
        _target(run, name, [point for point in tested if point.target == name])
        for name in run.chosen
    ]


def defence_order(name: str) -> tuple[int, str]:
    """The key that sorts defences."""
    return (DEFENCES.index(name) if name in DEFENCES else len(DEFENCES), name)


def _target(run: ErasureRun, name: str, points: Sequence[ErasurePoint]) -> Target:
    own = [point for point in points if point.variant in ("", run.cell)]
    chosen = run.chosen[name]
    known = {(p.defence, p.strength, p.kind, p.measure): p.estimate for p in own}
    defences = sorted({point.defence for point in own}, key=defence_order)
    kinds = list(dict.fromkeys(point.kind for point in own if point.kind != OTHERS))
    curves = {}
    for defence in defences:
        strengths = sorted({point.strength for point in own if point.defence == defence})
        curves[defence] = [
            Trade(
                strength,
                known.get((defence, strength, PLAIN, "found"), NO_DATA),
                known.get((defence, strength, OTHERS, "aligned"), NO_DATA),
                strength == chosen.get(defence),
            )
            for strength in strengths
        ]
    lines = [
        Line(
            defence,
            chosen[defence],
            {
                kind: known[key]
                for kind in kinds
                if (key := (defence, chosen[defence], kind, "found")) in known
            },
            {
                harm: known[key]
                for harm in HARMS
                if (key := (defence, chosen[defence], OTHERS, harm)) in known
            },
        )
        for defence in defences
        if defence in chosen
    ]
    tokens = [searched for searched in run.tokens if searched.target == name]
    return Target(name, curves, lines, kinds, _variants(run.cell, points), tokens)


def _variants(own: str, points: Iterable[ErasurePoint]) -> list[Variant]:
    by_variant: dict[tuple[str, float], dict[str, Estimate]] = {}
    for point in points:
        wanted = (point.kind, point.measure) in ((PLAIN, "found"), (OTHERS, "aligned"))
        if point.defence == OWN and wanted:
            place = by_variant.setdefault((point.variant, point.strength), {})
            place[point.measure] = point.estimate
    variants = [
        Variant(name, strength, figures.get("found", NO_DATA), figures.get("aligned", NO_DATA))
        for (name, strength), figures in by_variant.items()
    ]
    if all(variant.name == own for variant in variants):
        return []
    return sorted(
        variants, key=lambda variant: (variant.name != own, variant.name, variant.strength)
    )
