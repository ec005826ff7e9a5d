"""Steering through the text encoder as the page shows it: strips over lambda, and success by
lambda.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from diffusae.report.pictures import PictureBook
from diffusae.report.study import Steered, Strip
from diffusae.report.tables import Figure, Row, rows_of

METRICS = ("steering_towards", "steering_towards_kept", "steering_away", "steering_away_kept")
"""What `diffusae evaluate evaluation=steering` tells."""


@dataclass(frozen=True)
class StripTable:
    """Strips of one layer over the same strengths: a line a strip, None where a strength was not
    made.
    """

    place: str
    strengths: list[float]
    lines: list[tuple[Strip, list[tuple[Steered, Markup] | None]]]


@dataclass(frozen=True)
class StrengthLine:
    """What one strength does, over all concepts; `chosen` on the tuning split."""

    place: str
    direction: str
    strength: float
    success: Figure
    kept: Figure | None
    chosen: bool


def strip_tables(strips: Iterable[Strip], book: PictureBook) -> list[StripTable]:
    """Strips side by side where layer, autoencoder and strengths are the same, in order of
    appearance.
    """
    groups: dict[tuple[str, tuple[float, ...]], list[Strip]] = {}
    for strip in strips:
        strengths = tuple(sorted(picture.strength for picture in strip.pictures))
        groups.setdefault((strip.place, strengths), []).append(strip)
    return [
        StripTable(
            place, list(strengths), [(strip, _drawn(strip, strengths, book)) for strip in members]
        )
        for (place, strengths), members in groups.items()
    ]


def _drawn(
    strip: Strip, strengths: Sequence[float], book: PictureBook
) -> list[tuple[Steered, Markup] | None]:
    made = {picture.strength: picture for picture in strip.pictures}
    return [
        (
            None
            if (picture := made.get(strength)) is None
            else (
                picture,
                book.picture(
                    picture.image, alt=f"{strip.case}, lambda {strength:g}: {strip.prompt}"
                ),
            )
        )
        for strength in strengths
    ]


def strength_lines(results: Iterable[Mapping[str, Any]]) -> list[StrengthLine]:
    """Success and kept objects at every strength and without an edit, towards first."""
    results = list(results)
    found = []
    for direction in ("towards", "away"):
        kept = {_cell(row): row for row in rows_of(results, f"steering_{direction}_kept")}
        for row in rows_of(results, f"steering_{direction}"):
            beside = kept.get(_cell(row))
            shares = row.details["by_strength"]
            for strength in sorted(shares, key=lambda s: abs(float(s))):
                found.append(
                    StrengthLine(
                        f"{row.block} · t = {row.t:.2f} · {row.conditioning}",
                        direction,
                        float(strength),
                        Figure.of(shares[strength]),
                        (
                            None
                            if beside is None
                            else Figure.of(beside.details["by_strength"][strength])
                        ),
                        float(strength) == row.details["strength"],
                    )
                )
    return found


def _cell(row: Row) -> tuple[str, float, str]:
    return row.block, row.t, row.conditioning
