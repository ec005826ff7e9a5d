"""Gathering all that is finished into one page."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import read_images
from diffusae.activations.schema import Cell
from diffusae.concepts.dictionary import ConceptDictionary
from diffusae.concepts.gallery import Gallery
from diffusae.errors import UserError
from diffusae.evaluation.result import Result, load_results
from diffusae.labelling.labelled_pictures import caption_of
from diffusae.report.before_after import load_examples
from diffusae.report.erasure_shown import erasures_shown
from diffusae.report.how_collected import how_collected
from diffusae.report.predictions_shown import predictions_shown
from diffusae.report.purest import load_purest, shared_labels
from diffusae.report.strips import strips_of
from diffusae.report.study import Concept, Examples, Picture, Run, RunRow
from diffusae.report.study import Study as Page
from diffusae.runs.disk import where_writable
from diffusae.runs.record import RunRecord, signature
from diffusae.runs.survey import SurveyedRun
from diffusae.study.study import Study
from diffusae.summaries.emergence import STAGE as EMERGENCE
from diffusae.summaries.emergence import summarise_emergence
from diffusae.summaries.three_stages import STAGE as THREE_STAGES
from diffusae.summaries.three_stages import (
    claims_in,
    evaluated_interventions,
    summarise_three_stages,
    window_name,
)

log = logging.getLogger(__name__)

SHEET_PICTURES = 48
SHOWN = ("annotate", "label", "evaluate", "steer", EMERGENCE, THREE_STAGES)
"""Stages whose outputs the page shows."""

Images = dict[str, np.ndarray]


def summarised(study: Study) -> Iterator[str]:
    """Bring the curves and the table up to date; what cannot be is said, and does not keep the page
    from being drawn.
    """
    for summarise in (summarise_emergence, summarise_three_stages):
        try:
            with where_writable(
                study.directory / "evaluation", otherwise="the report has no new summaries"
            ):
                summarise(study)
        except UserError as error:
            yield str(error)


def shown_contents(study: Study, runs: list[SurveyedRun]) -> str:
    """One value for all that a page is made of: the status and the contents of every run, and how
    they are summarised.
    """
    settings = {name: study.part(name) for name in ("grid", EMERGENCE, THREE_STAGES)}
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


def page_of(study: Study, runs: list[SurveyedRun]) -> Page:
    """All that the page shows."""
    records = [
        (run.directory, run.record) for run in runs if run.record is not None and run.fault is None
    ]
    cells = [
        (Cell(**record.determines["cell"]), directory.name)
        for directory, record in records
        if record.stage == "label"
    ]
    results, curves = _results(records, "evaluate"), _results(records, EMERGENCE)
    manifest = _manifest(study)
    held_out = {
        split: (
            list(read_images(study.activations, manifest, split))
            if manifest is not None and manifest.image_size and split in manifest.splits
            else []
        )
        for split in ("dictionary", "test")
    }
    images: Images = {
        image_id: picture for rows in held_out.values() for image_id, picture, _ in rows
    }
    captions = {image_id: caption_of(meta) for image_id, _, meta in held_out["test"]}
    made = Run(os.path.relpath(study.activations, study.directory))
    sheet = [
        Picture(caption=caption_of(meta), image=picture, note=f"seed {meta['seed']}", run=made)
        for _, picture, meta in held_out["test"][:SHEET_PICTURES]
    ]
    return Page(
        name=study.name,
        model=study.cfg.model.name,
        facts={} if manifest is None else _facts(manifest, records),
        contact_sheet=sheet,
        given=manifest is not None and manifest.header.get("collection") == "pictures",
        results=[result.to_json() for result in results],
        emergence=[curve.to_json() for curve in curves],
        three_stages=[row.to_json() for row in _results(records, THREE_STAGES)],
        claims=claims_in(study),
        examples=list(_examples(study)),
        erasures=list(erasures_shown(study, run_of)),
        strips=list(strips_of(study.directory)),
        predictions=list(predictions_shown(study, cells, captions, images, run_of)),
        concepts=[
            concept for cell, name in cells for concept in _concepts(study, cell, name, images)
        ],
        pure=list(_pure(study, records, images)),
        runs=[
            RunRow(
                stage=run.stage,
                cell=(
                    "" if run.stage in ("collect", "annotate", THREE_STAGES) else run.directory.name
                ),
                status=run.status,
                duration_s=None if run.record is None else run.record.duration_s,
                signature="" if run.record is None else run.record.signature,
            )
            for run in runs
        ],
    )


def _manifest(study: Study) -> Manifest | None:
    """The collection's manifest; None, said, where the collection is not finished or has been
    removed.
    """
    try:
        return Manifest.load(study.activations)
    except UserError as error:
        log.warning("the report shows no pictures: %s", error)
        return None


def _results(records: list[tuple[Path, RunRecord]], stage: str) -> list[Result]:
    """All rows of a stage's finished runs."""
    return [
        result
        for directory, record in records
        if record.stage == stage
        for result in load_results(directory / "results.json")
    ]


def _facts(manifest: Manifest, records: list[tuple[Path, RunRecord]]) -> dict[str, str]:
    header, first = manifest.header, records[0][1]
    splits = ", ".join(f"{counts['images']} {split}" for split, counts in manifest.splits.items())
    changed = " with uncommitted changes" if first.git_dirty else ""
    samples = "prompts" if header.get("collection") == "text" else "pictures"
    return {
        "model": f"{header.get('model')} ({header.get('source')})",
        **how_collected(header),
        samples: splits,
        f"rejected {samples}": str(sum(counts["rejected"] for counts in manifest.splits.values())),
        "collected": f"{first.started} on {first.device}",
        "commit": f"{first.git_commit}{changed}" if first.git_commit else "not from a repository",
        "versions": ", ".join(
            f"{name} {version}" for name, version in first.versions.items() if version
        ),
    }


def _examples(study: Study) -> Iterator[Examples]:
    """Pictures before and after, of every finished intervention that kept some."""
    for each in evaluated_interventions(study):
        cases = load_examples(each.directory)
        if not cases:
            continue
        row = load_results(each.directory / "results.json")[0]
        first, last = row.details["window"]
        yield Examples(
            edit=each.metric,
            window=window_name((first, last)),
            bounds=(float(first), float(last)),
            blocks=list(row.details.get("blocks") or [row.cell["block"]]),
            t=float(row.cell["t"]),
            conditioning=str(row.cell["conditioning"]),
            tag=each.tag,
            cases=cases,
            run=run_of(study, each.directory),
        )


def run_of(study: Study, directory: Path) -> Run:
    """The run of one cell in a directory."""
    logger = study.cfg.logger
    path = [logger.project, study.wandb_id(directory.name)]
    owner = [] if logger.entity is None else [logger.entity]
    mirrored = "" if logger.mode == "disabled" else "/".join([*owner, *path])
    return Run(directory.relative_to(study.directory).as_posix(), mirrored)


def _concepts(study: Study, cell: Cell, name: str, images: Images) -> Iterator[Concept]:
    """The gallery of one cell."""
    directory = study.directory / "concepts" / name
    gallery = Gallery.load(directory)
    dictionary = ConceptDictionary.load(directory)
    latents: Any = dictionary.latents.set_index("latent")
    for latent, image_ids, maps in zip(
        gallery.latents, gallery.image_ids, gallery.maps, strict=True
    ):
        purity = float(latents.at[latent, "purity"])
        yield Concept(
            cell_key=name,
            block=cell.block,
            t=cell.t,
            conditioning=cell.conditioning,
            latent=latent,
            labels=list(dictionary.labels_of(latent).items()),
            purity=None if math.isnan(purity) else purity,
            firing_frequency=float(latents.at[latent, "firing_frequency"]),
            pictures=[
                (images[i], heat.numpy())
                for i, heat in zip(image_ids, maps, strict=True)
                if i in images
            ],
            run=run_of(study, directory),
        )


def _pure(study: Study, records: list[tuple[Path, RunRecord]], images: Images) -> Iterator[Concept]:
    """The purest latents of every cell whose purity is evaluated; those whose pictures are not at
    hand are left out.
    """
    for directory, record in records:
        if record.stage != "evaluate" or directory.parent.name != "purity":
            continue
        cell = Cell(**record.determines["cell"])
        gallery, table = load_purest(directory)
        tasks = [name.removesuffix("_label") for name in table.columns if name.endswith("_label")]
        n_top = record.config["evaluation"]["n_top"]
        for latent, image_ids, maps in zip(
            gallery.latents, gallery.image_ids, gallery.maps, strict=True
        ):
            row: Any = table.loc[latent]
            shared = shared_labels(table, latent, tasks)
            if isinstance(row.get("name"), str):
                shared = [(f"tagger: {row['name']}", float(row["name_share"])), *shared]
            yield Concept(
                cell_key=directory.name,
                block=cell.block,
                t=cell.t,
                conditioning=cell.conditioning,
                latent=latent,
                labels=[(name, round(share * n_top)) for name, share in shared],
                purity=None,
                firing_frequency=float(row["picture_share"]),
                pictures=[
                    (images[i], heat.numpy())
                    for i, heat in zip(image_ids, maps, strict=True)
                    if i in images
                ],
                run=run_of(study, directory),
            )
