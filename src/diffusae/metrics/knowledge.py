"""Knowledge at one cell: how well the labels of unseen pictures are read from updates, from codes,
and by Diff-C.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from diffusae.activations.manifest import MANIFEST, Manifest
from diffusae.activations.reader import read_images
from diffusae.collecting.random_weights import random_study
from diffusae.errors import UserError, unknown
from diffusae.evaluation.diff_c import Training, predicted, train_diff_c
from diffusae.evaluation.knowledge import READERS, knowledge_row, majority
from diffusae.evaluation.label_probe import Examples, Reading, linear_probe
from diffusae.evaluation.metric_settings import MetricSettings
from diffusae.evaluation.proportion import share
from diffusae.evaluation.result import NO_DATA, Estimate, Result
from diffusae.files import sha256_of
from diffusae.labelling.class_labels import ClassifiedSplit, Tasks, class_tasks, classified_split
from diffusae.labelling.codes import pooled_codes
from diffusae.metrics.metric import Beside, Embedding, Metric
from diffusae.sae.storage import load_sae
from diffusae.study.streams import stream_of
from diffusae.study.study import Study
from diffusae.table_files import write_table

TABLE = "pictures.parquet"
Readings = dict[str, Reading | None]
"""Task -> what a reader answered; None: no data."""


@dataclass(frozen=True, kw_only=True)
class Classifier(Training, part="evaluation.diff_c"):
    """The Diff-C of this metric."""

    together: bool
    """One network with a head for each task; false: a network for each task, as in the paper."""
    random_weights: bool
    """Trained on the denoiser with random weights too."""


@dataclass(frozen=True, kw_only=True)
class KnowledgeSettings(MetricSettings):
    """`conf/evaluation/knowledge.yaml`."""

    tasks: tuple[str, ...] | None
    """Of the collection's labels; None: all."""
    readers: tuple[str, ...]
    fit_split: str
    """Readers learn from these pictures; `tune` chooses ridges, `test` gives the figures."""
    ridges: tuple[float, ...]
    """Penalties that are tried."""
    pixel_sides: tuple[int, ...]
    """Sides of the squares that pictures are averaged to, for the baseline on pixels."""
    random_activations: str | None
    """Folder of the experiment with the collection of random weights; None: no such baseline."""
    diff_c: Classifier

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        for reader in self.readers:
            if reader not in READERS:
                yield str(unknown("reader in evaluation.readers:", reader, READERS))

    @property
    def probes(self) -> bool:
        """Whether a linear probe is read; that of codes has that of updates beside it."""
        return bool({"updates", "codes"} & {*self.readers})


@dataclass(frozen=True, eq=False)
class Splits:
    """The pictures that readers are fitted on, those that choose, and those that give the
    figures.
    """

    fitting: ClassifiedSplit
    tuning: ClassifiedSplit
    test: ClassifiedSplit

    def __iter__(self) -> Iterator[ClassifiedSplit]:
        return iter((self.fitting, self.tuning, self.test))


def knowledge_rows(
    study: Study, settings: KnowledgeSettings, _embedding: Embedding
) -> list[Result]:
    """One row for each task and reader. Beside them pictures.parquet: every test picture, and
    whether each reader named its label.
    """
    training, root = settings.diff_c, study.activations
    tasks, splits, grid = _read(study, root, settings)
    readings: dict[str, Readings] = {}
    if settings.probes:
        readings["updates"] = _probed(
            splits, [_averaged(split) for split in splits], tasks, settings.ridges
        )
    if "codes" in settings.readers:
        sae, _ = load_sae(study.sae)
        codes = [pooled_codes(sae, split.updates) for split in splits]
        readings["codes"] = _probed(splits, codes, tasks, settings.ridges)
    directory = study.evaluation(METRIC.name)
    if "diff_c" in settings.readers:
        readings["diff_c"] = _classified(
            study, splits, grid, tasks, training, directory / "diff_c.safetensors"
        )
    pixels = _pixel_readings(
        root,
        sha256_of(root / MANIFEST),
        settings.pixel_sides,
        settings.fit_split,
        tuple(tasks),
        settings.ridges,
    )
    random = _of_random_weights(study, settings, splits, tasks, directory)
    rows = []
    for task, names in tasks.items():
        fitting, test = (
            split.classes[task][split.classified(task)] for split in (splits.fitting, splits.test)
        )
        details = {
            "n_classes": len(names),
            "n_fitting": len(fitting),
            "fit_split": settings.fit_split,
        }
        for reader in settings.readers:
            baselines = {"majority": majority(fitting, test), "pixels": _estimate(pixels[task])}
            other = random.get("diff_c" if reader == "diff_c" else "updates")
            if other is not None:
                baselines["random_weights"] = _estimate(other[task])
            if reader == "codes":
                baselines["update_probe"] = _estimate(readings["updates"][task])
            rows.append(
                knowledge_row(
                    task,
                    reader,
                    readings[reader][task],
                    baselines=baselines,
                    cell=study.cell.coordinates(),
                    details=details,
                )
            )
    _save_pictures(directory / TABLE, splits.test, tasks, readings, pixels, random)
    return rows


def _read(
    study: Study, root: Path, settings: KnowledgeSettings
) -> tuple[Tasks, Splits, tuple[int, int]]:
    """The tasks, splits and grid of the study's cell in a collection."""
    manifest = Manifest.load(root)
    tasks, stream = class_tasks(manifest, settings.tasks), stream_of(study, manifest)
    names = (settings.fit_split, "tune", "test")
    splits = Splits(*(classified_split(root, manifest, stream, name, tasks) for name in names))
    return tasks, splits, stream.grid


def _averaged(split: ClassifiedSplit) -> np.ndarray:
    """Updates averaged over positions, [n, d_in] in float32."""
    return split.updates.mean(axis=1, dtype=np.float32)


def _probed(
    splits: Splits, features: Sequence[np.ndarray], tasks: Tasks, ridges: Sequence[float]
) -> Readings:
    """A linear probe of every task, on the pictures that have a label in it."""
    readings: Readings = {}
    for task, names in tasks.items():
        examples = []
        for split, of_split in zip(splits, features, strict=True):
            rows = split.classified(task)
            examples.append(Examples(of_split[rows], split.classes[task][rows]))
        ready = _has_data([example.classes for example in examples])
        readings[task] = (
            linear_probe(*examples, n_classes=len(names), ridges=ridges) if ready else None
        )
    return readings


def _has_data(classes: Sequence[np.ndarray]) -> bool:
    """Whether there is something to learn, to choose by and to test on: fitting pictures of two
    classes, and others.
    """
    fitting, *others = classes
    return len(np.unique(fitting)) > 1 and all(map(len, others))


def _classified(
    study: Study,
    splits: Splits,
    grid: tuple[int, int],
    tasks: Tasks,
    training: Classifier,
    checkpoint: Path,
) -> Readings:
    """Diff-C on every task: together on one trunk, or each by itself."""
    ready = [
        task
        for task in tasks
        if _has_data([split.classes[task][split.classified(task)] for split in splits])
    ]
    groups = [ready] if training.together else [[task] for task in ready]
    readings: Readings = dict.fromkeys(tasks)
    for number, group in enumerate(groups):
        if not group:
            continue
        kept = checkpoint.with_stem(f"{checkpoint.stem}-{number}")
        rows = np.unique(np.concatenate([splits.fitting.classified(task) for task in group]))
        model = train_diff_c(
            _maps(splits.fitting, grid)[rows],
            {task: torch.from_numpy(splits.fitting.classes[task][rows]) for task in group},
            classes={task: len(tasks[task]) for task in group},
            training=training,
            seed=study.seed,
            device="cuda" if torch.cuda.is_available() else "cpu",
            checkpoint=kept,
        )
        tuned, tested = (
            predicted(model, _maps(split, grid)) for split in (splits.tuning, splits.test)
        )
        for task in group:
            correct = [
                (answers[task] == split.classes[task])[split.classified(task)]
                for answers, split in ((tuned, splits.tuning), (tested, splits.test))
            ]
            readings[task] = Reading(correct[1], float(correct[0].mean()), {})
        kept.unlink(missing_ok=True)
    return readings


def _maps(split: ClassifiedSplit, grid: tuple[int, int]) -> torch.Tensor:
    """Updates as pictures, [n, d_in, h, w] in float16."""
    return torch.from_numpy(split.updates).transpose(1, 2).unflatten(2, grid)


def _of_random_weights(
    study: Study, settings: KnowledgeSettings, splits: Splits, tasks: Tasks, directory: Path
) -> dict[str, Readings]:
    """The same readers on the same pictures and place of a denoiser with random weights; none where
    none is given.
    """
    if settings.random_activations is None:
        return {}
    root = study.directory / settings.random_activations
    _, others, grid = _read(study, root, settings)
    for own, other in zip(splits, others, strict=True):
        if own.image_ids != other.image_ids:
            raise UserError(
                f"{root} holds other pictures than {study.activations}: no baseline for them;"
                " collect it again with collection.random_weights=true and else the same settings"
            )
    readings: dict[str, Readings] = {}
    if settings.probes:
        readings["updates"] = _probed(
            others, [_averaged(split) for split in others], tasks, settings.ridges
        )
    if "diff_c" in settings.readers and settings.diff_c.random_weights:
        kept = directory / "diff_c-random.safetensors"
        readings["diff_c"] = _classified(study, others, grid, tasks, settings.diff_c, kept)
    return readings


@lru_cache(maxsize=2)
def _pixel_readings(
    root: Path,
    _manifest_sha256: str,
    sides: tuple[int, ...],
    fit_split: str,
    chosen: tuple[str, ...],
    ridges: tuple[float, ...],
) -> Readings:
    """The linear probe on the pictures themselves, averaged to squares of a side that the tuning
    pictures choose. It is the same for all cells of a collection: a process computes it once.
    """
    manifest = Manifest.load(root)
    tasks = class_tasks(manifest, chosen)
    stream = min(manifest.streams, key=lambda stream: stream.positions * stream.d_in)
    splits = Splits(
        *(
            classified_split(root, manifest, stream, name, tasks)
            for name in (fit_split, "tune", "test")
        )
    )
    pictures = []
    for name, split in zip((fit_split, "tune", "test"), splits, strict=True):
        seen = {image_id: picture for image_id, picture, _ in read_images(root, manifest, name)}
        pictures.append([seen[image_id] for image_id in split.image_ids])
    best: Readings = dict.fromkeys(tasks)
    for side in sides:
        features = [
            np.stack([_averaged_to(picture, side) for picture in of_split]) for of_split in pictures
        ]
        for task, reading in _probed(splits, features, tasks, ridges).items():
            leading = best[task]
            if reading is not None and (
                leading is None or reading.tune_accuracy > leading.tune_accuracy
            ):
                chosen_with = {**reading.chosen, "pixel_side": side}
                best[task] = Reading(reading.correct, reading.tune_accuracy, chosen_with)
    return best


def _averaged_to(picture: np.ndarray, side: int) -> np.ndarray:
    """A picture as one vector of side x side x 3 means, range [0, 1]."""
    small = Image.fromarray(picture).resize((side, side), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32).ravel() / 255


def _estimate(reading: Reading | None) -> Estimate:
    return NO_DATA if reading is None else share(reading.correct)


def _save_pictures(
    path: Path,
    test: ClassifiedSplit,
    tasks: Tasks,
    read: Mapping[str, Readings],
    pixels: Readings,
    random: Mapping[str, Readings],
) -> None:
    """One row a task and test picture: its label, and whether each reader named it (a column a
    reader).
    """
    readers = {
        **read,
        "pixels": pixels,
        **{f"random_weights_{name}": readings for name, readings in random.items()},
    }
    tables = []
    for task, names in tasks.items():
        rows = test.classified(task)
        columns: dict[str, Any] = {
            "task": task,
            "image_id": [test.image_ids[row] for row in rows],
            "label": [names[number] for number in test.classes[task][rows].tolist()],
        }
        for name, readings in readers.items():
            if (reading := readings[task]) is not None:
                columns[name] = reading.correct
        tables.append(pd.DataFrame(columns))
    write_table(path, pd.concat(tables))


def _random_collection(study: Study, settings: KnowledgeSettings) -> list[Beside]:
    """The collection of random weights, which is compared with."""
    if (folder := settings.random_activations) is None:
        return []
    random = random_study(study, folder)
    return [Beside("collect random_weights", study.directory / folder, "collect", random)]


METRIC = Metric(
    name="knowledge",
    title="What does a block know at a moment: which class labels can be read from it?",
    section="knowledge",
    settings=KnowledgeSettings,
    rows=knowledge_rows,
    needs="labels",
    beside=_random_collection,
)
