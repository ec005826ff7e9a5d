"""The erasure benchmark as the report reads it: trade-off curves, attacks by defence, and other
autoencoders.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffusae.errors import UserError
from diffusae.evaluation.result import NO_DATA, Estimate
from diffusae.report.study import ErasureRun

NONE, OWN = "none", "text_edit"
PLAIN, OTHERS = "plain", "others"
DEFENCES = (NONE, OWN, "negative_prompt", "safe_guidance", "word_removal", "update_ablation")
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
        tokens: what searches found: (kind, defence, tokens, loss before, loss after).
    """

    name: str
    curves: Mapping[str, Sequence[Trade]]
    lines: Sequence[Line]
    kinds: Sequence[str]
    variants: Sequence[Variant]
    tokens: Sequence[tuple[str, str, str, float, float]]


def targets_of(run: ErasureRun) -> list[Target]:
    """Every target of an evaluation, in the order of its rows.

    Raises:
        UserError: a row that lacks a field.
    """
    try:
        tested = [row for row in run.points if row["split"] == "test"]
        return [
            _target(run, name, [row for row in tested if row["target"] == name])
            for name in run.chosen
        ]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"a row of the erasure benchmark is incomplete ({error!r}); evaluate this cell again"
        ) from error


def defence_order(name: str) -> tuple[int, str]:
    """The key that sorts defences."""
    return (DEFENCES.index(name) if name in DEFENCES else len(DEFENCES), name)


def _target(run: ErasureRun, name: str, rows: Sequence[Mapping[str, Any]]) -> Target:
    own = [row for row in rows if row["variant"] in ("", run.cell)]
    chosen = run.chosen[name]
    known = {_key(row): _figure(row) for row in own}
    defences = sorted({str(row["defence"]) for row in own}, key=defence_order)
    kinds = list(dict.fromkeys(str(row["kind"]) for row in own if row["kind"] != OTHERS))
    curves = {}
    for defence in defences:
        strengths = sorted({float(row["strength"]) for row in own if row["defence"] == defence})
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
    tokens = [
        (
            str(token["kind"]),
            str(token["defence"]),
            str(token["tokens"]),
            float(token["start"]),
            float(token["loss"]),
        )
        for token in run.tokens
        if token["target"] == name
    ]
    return Target(name, curves, lines, kinds, _variants(run.cell, rows), tokens)


def _variants(own: str, rows: Iterable[Mapping[str, Any]]) -> list[Variant]:
    by_variant: dict[tuple[str, float], dict[str, Estimate]] = {}
    for row in rows:
        wanted = (row["kind"], row["measure"]) in ((PLAIN, "found"), (OTHERS, "aligned"))
        if row["defence"] == OWN and wanted:
            place = by_variant.setdefault((str(row["variant"]), float(row["strength"])), {})
            place[str(row["measure"])] = _figure(row)
    variants = [
        Variant(name, strength, figures.get("found", NO_DATA), figures.get("aligned", NO_DATA))
        for (name, strength), figures in by_variant.items()
    ]
    if all(variant.name == own for variant in variants):
        return []
    return sorted(
        variants, key=lambda variant: (variant.name != own, variant.name, variant.strength)
    )


def _key(row: Mapping[str, Any]) -> tuple[str, float, str, str]:
    return str(row["defence"]), float(row["strength"]), str(row["kind"]), str(row["measure"])


def _figure(row: Mapping[str, Any]) -> Estimate:
    value, low, high = (float(row[name]) for name in ("value", "low", "high"))
    if math.isnan(value):
        return NO_DATA
    return Estimate(value, None if math.isnan(low) else (low, high), int(row["n"]))
