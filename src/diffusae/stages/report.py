"""Report: gather what is finished into one HTML page."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig
from safetensors.torch import load_file

from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import read_images
from diffusae.activations.schema import Cell
from diffusae.concepts.annotations import Annotations
from diffusae.concepts.dictionary import ConceptDictionary
from diffusae.concepts.gallery import Gallery
from diffusae.errors import UserError
from diffusae.evaluation.masks import upsample
from diffusae.evaluation.result import Result, load_results
from diffusae.report.page import write_report
from diffusae.report.study import Concept, Examples, Picture, Prediction, Run, RunRow
from diffusae.report.study import Study as Page
from diffusae.runs.record import RunRecord, read_record, signature
from diffusae.stages.before_after import load_examples
from diffusae.stages.emergence import STAGE as EMERGENCE
from diffusae.stages.emergence import summarise_emergence
from diffusae.stages.erasure_shown import erasures_shown
from diffusae.stages.evaluate_purity import load_purest, shared_labels
from diffusae.stages.how_collected import how_collected
from diffusae.stages.labelled import caption_of
from diffusae.stages.read_only import left_out_where_read_only, results_directory
from diffusae.stages.strips import strips_of
from diffusae.stages.study import Study
from diffusae.stages.three_stages import STAGE as THREE_STAGES
from diffusae.stages.three_stages import (
    claims_in,
    evaluated_interventions,
    summarise_three_stages,
    window_name,
)

log = logging.getLogger(__name__)

SHEET_PICTURES = 48
PREDICTED_PROMPTS = 3

Images = dict[str, np.ndarray]


def report(cfg: DictConfig) -> None:
    """Write `report/index.html` of all that is finished; nothing is done where it shows just that already.

    Curves over t are summarised first, of grids with enough moments, and the three-stage table of all interventions.
    """
    study = Study(cfg)
    with left_out_where_read_only("a curve of emergence"):
        summarise_emergence(study)
    with left_out_where_read_only("the three-stage table"):
        summarise_three_stages(study)
    records = _records(study.directory)
    if not records:
        raise UserError(f"{study.directory} holds no finished run; run `diffusae run` or its stages first")
    page = results_directory(cfg) / "report" / "index.html"
    shown = signature({str(path.parent): record.signature for path, record in records})
    stamp = page.with_name("shows.txt")
    if page.exists() and stamp.exists() and stamp.read_text() == shown:
        log.info("the report is up to date: %s", page)
        return
    write_report(page, _page(study, records))
    stamp.write_text(shown)
    log.info("the report: %s", page.absolute())


def _records(directory: Path) -> list[tuple[Path, RunRecord]]:
    """Every run.json of the experiment, in the order of its stages."""
    order = ("collect", "annotate", "train", "label", "evaluate", EMERGENCE, THREE_STAGES)
    found = [
        (path, record) for path in sorted(directory.rglob("run.json")) if (record := read_record(path.parent))
    ]
    return sorted(found, key=lambda row: order.index(row[1].stage) if row[1].stage in order else len(order))


def _page(study: Study, records: list[tuple[Path, RunRecord]]) -> Page:
    """All that the page shows."""
    cells = [
        (Cell(**record.determines["cell"]), path.parent.name)
        for path, record in records
        if record.stage == "label" and record.status == "finished"
    ]
    results, curves = _results(records, "evaluate"), _results(records, EMERGENCE)
    manifest = Manifest.load(study.activations)
    held_out = {
        split: list(read_images(study.activations, manifest, split))
        if manifest.image_size and split in manifest.splits
        else []
        for split in ("dictionary", "test")
    }
    images: Images = {image_id: picture for rows in held_out.values() for image_id, picture, _ in rows}
    captions = {image_id: caption_of(meta) for image_id, _, meta in held_out["test"]}
    made = Run(os.path.relpath(study.activations, study.directory))
    sheet = [
        Picture(caption=caption_of(meta), image=picture, note=f"seed {meta['seed']}", run=made)
        for _, picture, meta in held_out["test"][:SHEET_PICTURES]
    ]
    return Page(
        name=study.name,
        model=study.cfg.model.name,
        facts=_facts(manifest, records),
        contact_sheet=sheet,
        given=manifest.header.get("collection") == "pictures",
        results=[result.to_json() for result in results],
        emergence=[curve.to_json() for curve in curves],
        three_stages=[row.to_json() for row in _results(records, THREE_STAGES)],
        claims=claims_in(study),
        examples=list(_examples(study)),
        erasures=list(erasures_shown(study, _run)),
        strips=list(strips_of(study.directory)),
        predictions=list(_predictions(study, cells, results, captions, images)),
        concepts=[concept for cell, name in cells for concept in _concepts(study, cell, name, images)],
        pure=list(_pure(study, records, images)),
        runs=[
            RunRow(
                stage=record.stage,
                cell="" if record.stage in ("collect", "annotate", THREE_STAGES) else path.parent.name,
                status=record.status,
                duration_s=record.duration_s,
                signature=record.signature,
            )
            for path, record in records
        ],
    )


def _results(records: list[tuple[Path, RunRecord]], stage: str) -> list[Result]:
    """All rows of a stage's finished runs."""
    return [
        result
        for path, record in records
        if record.stage == stage and record.status == "finished"
        for result in load_results(path.parent / "results.json")
    ]


def _facts(manifest: Manifest, records: list[tuple[Path, RunRecord]]) -> dict[str, str]:
    header, first = manifest.header, records[0][1]
    splits = ", ".join(f"{counts['images']} {split}" for split, counts in manifest.splits.items())
    changed = " with uncommitted changes" if first.git_dirty else ""
    samples = "prompts" if header.get("collection") == "text" else "pictures"
    return {
        "model": f"{header['model']} ({header['source']})",
        **how_collected(header),
        samples: splits,
        f"rejected {samples}": str(sum(counts["rejected"] for counts in manifest.splits.values())),
        "collected": f"{first.started} on {first.device}",
        "commit": f"{first.git_commit}{changed}" if first.git_commit else "not from a repository",
        "versions": ", ".join(f"{name} {version}" for name, version in first.versions.items() if version),
    }


def _predictions(
    study: Study,
    cells: list[tuple[Cell, str]],
    results: list[Result],
    captions: dict[str, str],
    images: Images,
) -> Iterator[Prediction]:
    """The first test pictures that show two objects or more, at every cell."""
    masks = Annotations.load(study.annotations).masks if cells else {}
    shown = _prompts_to_show(study, cells)
    by_picture: dict[str, dict[str, dict]] = {i: {"predicted": {}, "iou": {}} for i in shown}
    runs: dict[tuple[str, str, float], Run] = {}
    thresholds = {
        tuple(r.cell.values()): r.details["threshold"] for r in results if r.metric == "composition"
    }
    for cell, name in cells:
        directory = study.directory / "evaluation" / "composition" / name
        if not (directory / "results.json").exists():
            continue
        runs[cell.block, cell.conditioning, cell.t] = _run(study, directory)
        objects = pd.read_parquet(directory / "objects.parquet")
        scores = load_file(directory / "scores.safetensors")["scores"].float()
        columns = [objects[column].tolist() for column in ("image_id", "noun", "iou")]
        for score, image_id, noun, iou in zip(scores, *columns, strict=True):
            if image_id not in shown:
                continue
            height, width = images[image_id].shape[:2]
            mask = upsample(score[None], (height, width))[0] >= thresholds[tuple(cell.coordinates().values())]
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
            run=_run(study, each.directory),
        )


def _prompts_to_show(study: Study, cells: list[tuple[Cell, str]]) -> list[str]:
    """The first test pictures in which two of the caption's nouns or more were found."""
    for _, name in cells:
        path = study.directory / "evaluation" / "composition" / name / "objects.parquet"
        if path.exists():
            counts = Counter(pd.read_parquet(path)["image_id"].tolist())
            return [image_id for image_id, count in counts.items() if count >= 2][:PREDICTED_PROMPTS]
    return []


def _run(study: Study, directory: Path) -> Run:
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
    for latent, image_ids, maps in zip(gallery.latents, gallery.image_ids, gallery.maps, strict=True):
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
            pictures=[(images[i], heat.numpy()) for i, heat in zip(image_ids, maps, strict=True)],
            run=_run(study, directory),
        )


def _pure(study: Study, records: list[tuple[Path, RunRecord]], images: Images) -> Iterator[Concept]:
    """The purest latents of every cell whose purity is evaluated; those whose pictures are not at hand are left out."""
    for path, record in records:
        directory = path.parent
        if record.stage != "evaluate" or record.status != "finished" or directory.parent.name != "purity":
            continue
        cell = Cell(**record.determines["cell"])
        gallery, table = load_purest(directory)
        tasks = [name.removesuffix("_label") for name in table.columns if name.endswith("_label")]
        n_top = record.config["evaluation"]["n_top"]
        for latent, image_ids, maps in zip(gallery.latents, gallery.image_ids, gallery.maps, strict=True):
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
                    (images[i], heat.numpy()) for i, heat in zip(image_ids, maps, strict=True) if i in images
                ],
                run=_run(study, directory),
            )
