"""What the report shows of predicted compositions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from diffusae.activations.schema import Cell
from diffusae.concepts.annotations import Annotations
from diffusae.evaluation.masks import upsample
from diffusae.evaluation.result import load_results
from diffusae.files import verified
from diffusae.report.study import Prediction, Run
from diffusae.runs.survey import finished_runs
from diffusae.study.study import Study
from diffusae.table_files import read_table
from diffusae.tensor_files import read_tensors

PROMPTS = 3


def predictions_shown(
    study: Study,
    cells: list[tuple[Cell, str]],
    captions: Mapping[str, str],
    images: Mapping[str, np.ndarray],
    run_of: Callable[[Study, Path], Run],
) -> Iterator[Prediction]:
    """The first test pictures that show two objects or more, at every cell."""
    if not any(finished_runs(study.annotations, ".")):
        return
    masks = Annotations.load(study.annotations).masks
    evaluated = {
        directory.name: directory
        for directory, _ in finished_runs(study.directory / "evaluation" / "composition", "*")
    }
    there = [(cell, evaluated[name]) for cell, name in cells if name in evaluated]
    shown = [image_id for image_id in _prompts_to_show(there) if image_id in images]
    by_picture: dict[str, dict[str, dict]] = {i: {"predicted": {}, "iou": {}} for i in shown}
    runs: dict[tuple[str, str, float], Run] = {}
    for cell, directory in there:
        (row,) = load_results(directory / "results.json")
        runs[cell.block, cell.conditioning, cell.t] = run_of(study, directory)
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
    for image_id, found in by_picture.items():
        nouns = sorted({key[3] for key in found["predicted"]})
        yield Prediction(
            caption=captions[image_id],
            image=images[image_id],
            nouns=nouns,
            true_masks={noun: masks[image_id][noun] for noun in nouns},
            predicted=found["predicted"],
            iou=found["iou"],
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
