"""What the report is made of: every finished run of a study, and what sections read from it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import read_images
from diffusae.activations.schema import Cell
from diffusae.errors import UserError
from diffusae.evaluation.result import Result, load_results
from diffusae.labelling.class_labels import caption_of
from diffusae.report.shown import Shown, Shows
from diffusae.report.study import Concept, Run
from diffusae.runs.disk import where_writable
from diffusae.runs.record import RunRecord, signature
from diffusae.runs.settings import LoggerSettings
from diffusae.runs.survey import SurveyedRun
from diffusae.study.seeds import is_twin
from diffusae.study.study import Study
from diffusae.summaries.claims import judgement_of, summarise_claims
from diffusae.summaries.emergence import STAGE as EMERGENCE
from diffusae.summaries.emergence import summarise_emergence
from diffusae.summaries.registration import Registered
from diffusae.summaries.three_stages import STAGE as THREE_STAGES
from diffusae.summaries.three_stages import summarise_three_stages

log = logging.getLogger(__name__)

SHOWN = ("annotate", "label", "evaluate", "steer", EMERGENCE, THREE_STAGES)
"""Stages whose outputs the page shows."""


def summarised(study: Study) -> Iterator[str]:
    """Bring the curves and the table up to date; what cannot be is said, and does not keep the page
    from being drawn.
    """
    for summarise in (summarise_emergence, summarise_three_stages, _summarise_claims):
        try:
            with where_writable(
                study.directory / "evaluation", otherwise="the report has no new summaries"
            ):
                summarise(study)
        except UserError as error:
            yield str(error)


def _summarise_claims(study: Study) -> None:
    if study.kind == "generation":
        summarise_claims(Registered.of(study))


def shown_contents(study: Study, runs: list[SurveyedRun]) -> str:
    """One value for all that a page is made of: the status and the contents of every run, and how
    they are summarised.
    """
    settings: dict[str, Any] = {
        name: study.part(name) for name in ("grid", EMERGENCE, THREE_STAGES)
    }
    if study.kind == "generation":
        settings["claims"] = asdict(judgement_of(Registered.of(study)))
    return signature(settings | {"runs": sorted((_said(study, run) for run in runs), key=str)})


def _said(study: Study, run: SurveyedRun) -> list[str | None]:
    place = run.directory.relative_to(study.directory).as_posix()
    if run.record is None:
        return [place, run.status]
    return [place, run.status, run.record.signature, run.record.started, run.record.contents]


def in_order(runs: list[SurveyedRun]) -> list[SurveyedRun]:
    """Every run of the experiment, in the order of its stages; those without a readable record
    last.
    """
    order = ("collect", "annotate", "train", "label", "evaluate", EMERGENCE, THREE_STAGES)
    place = {stage: number for number, stage in enumerate(order)}
    return sorted(runs, key=lambda run: place.get(run.stage, len(order)))


@dataclass(frozen=True)
class Source:
    """What sections gather from: a study, all of its runs, and how metrics are shown."""

    study: Study
    runs: list[SurveyedRun]
    metrics: Sequence[Shown] = ()

    @cached_property
    def records(self) -> list[tuple[Path, RunRecord]]:
        """The directory and record of every run that is finished and whole."""
        return [(r.directory, r.record) for r in self.runs if r.record is not None and not r.fault]

    @property
    def labelled(self) -> list[tuple[Path, RunRecord]]:
        """The cells that have a dictionary, without those of further SAE seeds."""
        return [
            (path, record)
            for path, record in self.records
            if record.stage == "label" and not is_twin(path.name, record.seed)
        ]

    @property
    def cells(self) -> list[tuple[Cell, str]]:
        """The same cells, each with its name."""
        return [(_cell(record), path.name) for path, record in self.labelled]

    def evaluations(self, metric: str) -> list[tuple[Path, RunRecord]]:
        """The finished evaluations by one metric."""
        return [
            (path, record)
            for path, record in self.records
            if record.stage == "evaluate" and path.parent.name == metric
        ]

    def results_of(self, stage: str) -> list[Result]:
        """All rows of a stage's finished runs, which say where they lie."""
        return [
            result
            for directory, record in self.records
            if record.stage == stage
            for result in self.rows(directory)
        ]

    def rows(self, directory: Path) -> list[Result]:
        """The rows of one run's results, which say where they lie."""
        made_in = directory.relative_to(self.study.directory).as_posix()
        rows = load_results(directory / "results.json")
        return [replace(row, made_in=made_in) for row in rows]

    @property
    def shows(self) -> Shows:
        """How every row of an evaluation is shown."""
        made_by = {
            result.metric: directory.parent.name
            for directory, record in self.records
            if record.stage == "evaluate"
            for result in load_results(directory / "results.json")
        }
        return Shows(self.metrics, made_by)

    @cached_property
    def manifest(self) -> Manifest | None:
        """The collection's manifest; None, said, where the collection is not finished or has been
        removed.
        """
        return _manifest_of(self.study)

    @cached_property
    def held_out_manifest(self) -> Manifest | None:
        """That of the dictionary, tune and test pictures; None as `manifest`."""
        held_out = self.study.held_out
        return _manifest_of(held_out) if held_out.coded else self.manifest

    @property
    def splits(self) -> dict[str, Mapping[str, int]]:
        """Split -> its pictures, accepted and rejected."""
        manifests = [one for one in (self.manifest, self.held_out_manifest) if one is not None]
        return {split: counts for one in manifests for split, counts in one.splits.items()}

    @cached_property
    def held_out(self) -> dict[str, list[Any]]:
        """The pictures of the splits `dictionary` and `test`: id, pixels, metadata."""
        manifest, root = self.held_out_manifest, self.study.held_out.activations
        return {
            split: (
                list(read_images(root, manifest, split))
                if manifest is not None and manifest.image_size and split in manifest.splits
                else []
            )
            for split in ("dictionary", "test")
        }

    @cached_property
    def images(self) -> dict[str, np.ndarray]:
        """The pixels of those pictures."""
        return {i: picture for rows in self.held_out.values() for i, picture, _ in rows}

    @cached_property
    def captions(self) -> dict[str, str]:
        """Their captions."""
        return {i: caption_of(meta) for rows in self.held_out.values() for i, _, meta in rows}

    def run_of(self, directory: Path) -> Run:
        """The run of one cell in a directory."""
        logger = LoggerSettings.of(self.study.cfg)
        path = [logger.project, self.study.wandb_id(directory.name)]
        owner = [] if logger.entity is None else [logger.entity]
        mirrored = "" if logger.mode == "disabled" else "/".join([*owner, *path])
        return Run(os.path.relpath(directory, self.study.directory), mirrored)

    def concept(self, directory: Path, record: RunRecord, latent: int, **others: Any) -> Concept:
        """A latent of the cell that a run is of."""
        cell = _cell(record)
        return Concept(
            cell_key=directory.name,
            block=cell.block,
            t=cell.t,
            conditioning=cell.conditioning,
            latent=latent,
            run=self.run_of(directory),
            **others,
        )

    def shown(self, image_ids: list[str], maps: Any) -> list[tuple[np.ndarray, np.ndarray]]:
        """Those of a latent's pictures that are at hand, each with the latent's map."""
        pairs = zip(image_ids, maps, strict=True)
        return [(self.images[i], heat.numpy()) for i, heat in pairs if i in self.images]


def _manifest_of(study: Study) -> Manifest | None:
    try:
        return Manifest.load(study.activations)
    except UserError as error:
        log.warning("the report shows no pictures: %s", error)
        return None


def _cell(record: RunRecord) -> Cell:
    return Cell(**record.determines["cell"])
