"""Steering through the text encoder: strips over lambda, and success by lambda."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup
from PIL import Image, UnidentifiedImageError

from diffusae.errors import UserError
from diffusae.evaluation.result import Estimate, Result
from diffusae.files import verified
from diffusae.report.before_after import load_examples
from diffusae.report.gathering import Source
from diffusae.report.pictures import PictureBook
from diffusae.report.sections import Books, Section, View
from diffusae.report.study import FinishedStudy, Run, Steered, Strip
from diffusae.report.tables import Row, rows_of
from diffusae.runs.record import RunRecord
from diffusae.runs.survey import finished_runs

NAME = "steering"


def gather(source: Source) -> dict[str, object]:
    """Strips of evaluations and of `diffusae steer`."""
    return {"strips": list(strips_of(source.study.directory))}


def view(study: FinishedStudy, books: Books) -> View | None:
    """Success by strength, and the strips."""
    lines, tables = strength_lines(study.results), strip_tables(study.strips, books.pictures)
    return {"steering_lines": lines, "steering_tables": tables} if lines or tables else None


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
    success: Estimate
    kept: Estimate | None
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


def strength_lines(results: Iterable[Result]) -> list[StrengthLine]:
    """Success and kept objects at every strength and without an edit, towards first."""
    results = list(results)
    lines = []
    for direction in ("towards", "away"):
        kept = {_cell(row): row for row in rows_of(results, f"steering_{direction}_kept")}
        for row in rows_of(results, f"steering_{direction}"):
            beside = kept.get(_cell(row))
            shares = row.details["by_strength"]
            for strength in sorted(shares, key=lambda s: abs(float(s))):
                lines.append(
                    StrengthLine(
                        f"{row.block} · t = {row.t:.2f} · {row.conditioning}",
                        direction,
                        float(strength),
                        Estimate.from_json(shares[strength]),
                        (
                            None
                            if beside is None
                            else Estimate.from_json(beside.details["by_strength"][strength])
                        ),
                        float(strength) == row.details["strength"],
                    )
                )
    return lines


def _cell(row: Row) -> tuple[str, float, str]:
    return row.block, row.t, row.conditioning


def strips_of(directory: Path) -> Iterator[Strip]:
    """Every finished strip below an experiment's directory, evaluations first."""
    for path, record in finished_runs(directory / "evaluation" / "steering", "*"):
        for example in load_examples(path):
            pictures = [
                Steered(picture.strength, picture.success, picture.image)
                for picture in example.pictures
            ]
            yield Strip(
                example.case, example.prompt, _place(record), pictures, _run(directory, path)
            )
    for path, record in finished_runs(directory / "steer", "*"):
        made = record.determines
        if made["intervention"]["name"] != "text":
            continue
        pictures = [Steered(0.0, None, _read(path / "before.png"))]
        pictures += [
            Steered(s, None, _read(path / f"strength{s:+g}.png")) for s in made["strengths"]
        ]
        yield Strip(
            made["concept"], made["prompt"], _place(record), pictures, _run(directory, path)
        )


def _place(record: RunRecord) -> str:
    """The layer, and the tag by which its autoencoders are told apart."""
    return f"{record.determines['cell']['block']} · {record.config['sae']['tag']}"


def _run(directory: Path, path: Path) -> Run:
    return Run(path.relative_to(directory).as_posix())


def _read(path: Path) -> np.ndarray:
    try:
        with Image.open(verified(path), formats=["PNG"]) as picture:
            return np.asarray(picture.convert("RGB"))
    except (
        FileNotFoundError,
        UnidentifiedImageError,
        Image.DecompressionBombError,
        OSError,
    ) as error:
        raise UserError(
            f"{path} is not readable as a picture ({error}); remove its directory and steer again"
        ) from error


SECTION = Section(NAME, "Steering", view, gather)
