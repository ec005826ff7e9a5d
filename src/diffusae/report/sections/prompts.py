"""One prompt over time: where its nouns are predicted at every moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup

from diffusae.activations.schema import Cell
from diffusae.concepts.annotations import Annotations
from diffusae.evaluation.masks import upsample
from diffusae.evaluation.result import load_results
from diffusae.files import verified
from diffusae.report import pictures
from diffusae.report.gathering import Source
from diffusae.report.pictures import PictureBook
from diffusae.report.sections import Books, Section, View, asks_something_else
from diffusae.report.study import FinishedStudy, Prediction, Run
from diffusae.report.tables import blocks_of, conditionings_of, number, times_of
from diffusae.runs.survey import finished_runs
from diffusae.table_files import read_table
from diffusae.tensor_files import read_tensors

PROMPTS = 3
# The rest of Okabe and Ito's palette: blocks have the other colours.
NOUN_COLOURS = ("#e69f00", "#56b4e9", "#cc79a7", "#f0e442", "#999999")
# Seen on dark and on bright parts of a map alike.
ON_MAPS = "#66e0ff"


def gather(source: Source) -> dict[str, object]:
    """The first test pictures that show two objects or more, at every cell."""
    return {"predictions": list(_predictions(source))}


def _predictions(source: Source) -> Iterator[Prediction]:
    study, images = source.study, source.images
    if not any(finished_runs(study.annotations, ".")):
        return
    masks = Annotations.load(study.annotations).masks
    evaluated = {
        directory.name: directory
        for directory, _ in finished_runs(study.directory / "evaluation" / "composition", "*")
    }
    done = [(cell, evaluated[name]) for cell, name in source.cells if name in evaluated]
    shown = [image_id for image_id in _prompts_to_show(done) if image_id in images]
    by_picture: dict[str, dict[str, dict]] = {i: {"predicted": {}, "iou": {}} for i in shown}
    runs: dict[tuple[str, str, float], Run] = {}
    for cell, directory in done:
        (row,) = load_results(directory / "results.json")
        runs[cell.block, cell.conditioning, cell.t] = source.run_of(directory)
        objects, remedy = _objects(directory), f"remove {directory} and evaluate this cell again"
        scores = read_tensors(verified(directory / "scores.safetensors"), remedy=remedy)[
            "scores"
        ].float()
        columns = [objects[column].tolist() for column in ("image_id", "noun", "iou")]
        for score, image_id, noun, iou in zip(scores, *columns, strict=True):
            if image_id not in shown:
                continue
            height, width = images[image_id].shape[:2]
            mask = upsample(score[None], (height, width))[0] >= row.details["threshold"]
            key = (cell.block, cell.conditioning, cell.t, noun)
            by_picture[image_id]["predicted"][key] = (score.numpy(), mask.numpy())
            by_picture[image_id]["iou"][key] = iou
    for image_id, maps in by_picture.items():
        nouns = sorted({key[3] for key in maps["predicted"]})
        yield Prediction(
            caption=source.captions[image_id],
            image=images[image_id],
            nouns=nouns,
            true_masks={noun: masks[image_id][noun] for noun in nouns},
            predicted=maps["predicted"],
            iou=maps["iou"],
            runs=runs,
        )


def _prompts_to_show(cells: list[tuple[Cell, Path]]) -> list[str]:
    """The first test pictures in which two of the caption's nouns or more were found."""
    for _, directory in cells:
        counts = Counter(_objects(directory)["image_id"].tolist())
        return [image_id for image_id, count in counts.items() if count >= 2][:PROMPTS]
    return []


def _objects(directory: Path) -> pd.DataFrame:
    return read_table(
        verified(directory / "objects.parquet"),
        {"image_id": "text", "noun": "text", "iou": "number"},
        remedy=f"remove {directory} and evaluate this cell again",
    )


@dataclass(frozen=True)
class Panel:
    """One moment of one block: drawings, each with the colour, name and IoU of every noun that it
    shows, and the run that predicted them.
    """

    drawings: list[tuple[Markup, list[tuple[str, str, str]]]]
    run: Run | None


@dataclass(frozen=True)
class PanelTable:
    """Panels of one conditioning: a line a block, a column a t; None is no data."""

    conditioning: str
    lines: list[tuple[str, list[Panel | None]]]


def view(study: FinishedStudy, books: Books) -> View | None:
    """Every prompt with its finished picture, its panels, and the score maps behind them."""
    if not study.predictions and asks_something_else(study):
        return None
    return {"predictions": [_view(prediction, books.pictures) for prediction in study.predictions]}


def _view(prediction: Prediction, book: PictureBook) -> View:
    drawing = _Drawing(prediction, book)
    keys = prediction.predicted
    times = times_of(key[2] for key in keys)
    conditionings = conditionings_of(key[1] for key in keys)
    return {
        "caption": prediction.caption,
        "reference": book.picture(
            prediction.image, alt=prediction.caption, layers=list(drawing.outlines.values())
        ),
        "legend": [(drawing.colours[n], n, n in drawing.outlines) for n in prediction.nouns],
        "times": times,
        "compositions": [_table(prediction, c, times, drawing.masks) for c in conditionings],
        "scores": [_table(prediction, c, times, drawing.scores) for c in conditionings],
    }


def _table(
    prediction: Prediction,
    conditioning: str,
    times: Sequence[float],
    draw: Callable[[tuple[str, str, float]], Panel | None],
) -> PanelTable:
    blocks = blocks_of(key[0] for key in prediction.predicted if key[1] == conditioning)
    return PanelTable(
        conditioning, [(block, [draw((block, conditioning, t)) for t in times]) for block in blocks]
    )


class _Drawing:
    """Draws the nouns of one prompt at a cell. Masks that overlap would hide one another in one
    picture: where they do, every noun has a picture of its own.
    """

    def __init__(self, prediction: Prediction, book: PictureBook) -> None:
        self.prediction, self.book = prediction, book
        self.colours = {
            noun: NOUN_COLOURS[i % len(NOUN_COLOURS)] for i, noun in enumerate(prediction.nouns)
        }
        self.outlines = {
            noun: book.outline(mask, prediction.image, self.colours[noun])
            for noun, mask in prediction.true_masks.items()
            if mask.any()
        }

    def masks(self, cell: tuple[str, str, float]) -> Panel | None:
        """Filled: as predicted; outlined: as it is in the finished picture."""
        masks = {
            noun: maps[1]
            for noun in self.prediction.nouns
            if (maps := self.prediction.predicted.get((*cell, noun)))
        }
        if not masks:
            return None
        groups = [[noun] for noun in masks] if overlap(list(masks.values())) else [list(masks)]
        image = pictures.pale(self.prediction.image)
        drawings = []
        for nouns in groups:
            layers = [
                pictures.region(masks[noun], self.prediction.image, self.colours[noun])
                for noun in nouns
            ]
            layers += [self.outlines[noun] for noun in nouns if noun in self.outlines]
            figures = [(noun, self._iou((*cell, noun))) for noun in nouns]
            described = ", ".join(f"{noun} IoU {value}" for noun, value in figures)
            alt = f"{cell[0]}, {cell[1]}, t = {cell[2]:.2f}: {described}"
            drawings.append(
                (self.book.picture(image, alt=alt, layers=layers), self._named(figures))
            )
        return Panel(drawings, self.prediction.runs.get(cell))

    def scores(self, cell: tuple[str, str, float]) -> Panel | None:
        """The score map behind every noun's mask, with the true outline."""
        drawings = []
        for noun in self.prediction.nouns:
            if (maps := self.prediction.predicted.get((*cell, noun))) is None:
                continue
            truth = self.prediction.true_masks.get(noun)
            image = self.prediction.image
            drawing = pictures.score_map(
                maps[0],
                image,
                alt=f"scores of {noun}: {cell[0]}, {cell[1]}, t = {cell[2]:.2f}",
                layers=[] if truth is None else [self.book.outline(truth, image, ON_MAPS)],
            )
            drawings.append((drawing, self._named([(noun, self._iou((*cell, noun)))])))
        return Panel(drawings, self.prediction.runs.get(cell)) if drawings else None

    def _iou(self, key: tuple[str, str, float, str]) -> str:
        return number(self.prediction.iou.get(key), 2)

    def _named(self, figures: list[tuple[str, str]]) -> list[tuple[str, str, str]]:
        return [(self.colours[noun], noun, value) for noun, value in figures]


def overlap(masks: Sequence[np.ndarray]) -> bool:
    """Whether some position belongs to two masks, or cannot be compared because sizes differ."""
    if len({mask.shape for mask in masks}) > 1:
        return True
    return bool((np.sum(masks, axis=0) > 1).any())


SECTION = Section("prompts", "One prompt over time", view, gather)
