"""Look: where a concept is active while one picture is made, over time and blocks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from safetensors.torch import save_file

from diffusae.backbone.settings import ModelSettings
from diffusae.errors import UserError, unknown
from diffusae.exploring.cells import Latents, OpenCell, trained_cells
from diffusae.exploring.maps import ConceptMaps
from diffusae.exploring.recording import RecordedRun, record_run
from diffusae.exploring.token_maps import TokenMaps, places_of
from diffusae.files import atomic_path, atomic_write_json
from diffusae.jobs.out_of_memory import tells_memory
from diffusae.report.strip import Captioned, png_of, strip_figure
from diffusae.runs.record import state
from diffusae.steering.settings import LookSettings, file_name
from diffusae.steering.trials import save_picture
from diffusae.study.model import load_model
from diffusae.study.study import Study

log = logging.getLogger(__name__)

LATENTS_OF_A_WORD = 3
"""Latents that are shown of a cell of the text's stream: those that tell the concept's word best
from the prompt's other tokens."""


@tells_memory("generation", "model.height", "model.width")
def look(cfg: DictConfig) -> bool:
    """Write picture.png, look.png, maps.safetensors and look.json; False: they are there
    already.
    """
    study = Study(cfg)
    study.check(LookSettings)
    settings = LookSettings.of(cfg)
    chosen = _chosen(study, settings)
    directory = study.directory / "look" / _directory_name(study, settings)
    determines: dict[str, Any] = {
        "model": study.model_determines(),
        "prompt": settings.prompt,
        "concept": settings.concept,
        "picture_seed": settings.picture_seed,
        "latents": {one.cell.name: list(one.indices) for one in chosen if one.indices},
    }
    if words := [one.cell.name for one in chosen if not one.indices]:
        determines["of_the_word"] = dict.fromkeys(words, LATENTS_OF_A_WORD)
    parents = {name: made for latents in chosen for name, made in latents.cell.parents().items()}
    if state(directory, determines=determines, parents=parents) == "finished":
        log.info("%s is there already", directory / "look.png")
        return False
    with study.recorded(
        directory, "look", determines=determines, parents=parents, seed=settings.picture_seed
    ):
        places = [latents.cell.place for latents in chosen]
        pipe = load_model(ModelSettings.of(cfg))
        run = record_run(pipe, study, settings.prompt, seed=settings.picture_seed, cells=places)
        save_picture(directory / "picture.png", run.picture)
        if not (made := list(_made(run, chosen, settings))):
            raise UserError(
                f"nothing is labelled {settings.concept}, and the prompt does not name it; name it"
                " in the prompt, or look at latents=[...] of one cell"
            )
        _write(directory, study, settings, made)
    log.info("wrote %s", directory / "look.png")
    return True


def _chosen(study: Study, settings: LookSettings) -> list[Latents]:
    """The given latents of one cell, or those of the concept in every cell of the grid, block by
    block and from the first moment on. Cells of the text's stream have no labels; their latents are
    chosen when the prompt's tokens are known.

    Raises:
        UserError: no cell of the grid is labelled, or none has the concept.
    """
    cfg = study.cfg
    if settings.latents is not None:
        return [OpenCell.of_study(study).latents(settings.latents)]
    concept = str(settings.concept)
    grid = [place for place in study.grid if place.conditioning == cfg.conditioning.branch]
    trained = {
        cell.place: cell
        for cell in trained_cells(study)
        if cell.settings.cfg.sae.tag == cfg.sae.tag
    }
    known = [trained[place] for place in grid if place in trained]
    texts = [cell for cell in known if study.reads_text(cell.block)]
    cells = [cell for cell in known if cell.labelled]
    if not cells and not texts:
        raise UserError(
            f"no {cfg.conditioning.branch} cell of the grid is labelled in {study.directory} with"
            f" sae.tag={cfg.sae.tag}; run `diffusae run`, or choose grid.blocks and grid.timesteps"
        )
    chosen = [cell.concept(concept) for cell in cells if cell.label_of(concept)]
    chosen = [Latents(cell, ()) for cell in texts] + chosen
    if not chosen:
        labels = {label for cell in cells for label in cell.dictionary.table["label"]}
        raise unknown("concept of these cells", concept, labels)
    shown = {latents.cell.place for latents in chosen}
    if left_out := [place.key for place in grid if place not in shown]:
        log.info("left out, without a latent of %s: %s", concept, ", ".join(left_out))
    return chosen


def _made(
    run: RecordedRun, chosen: list[Latents], settings: LookSettings
) -> Iterator[ConceptMaps | TokenMaps]:
    """The maps of every cell. A cell of the text's stream has no labels: a concept's latents are
    those that are most active on its word in the prompt. Without the word, it is left out.
    """
    for latents in chosen:
        if latents.cell.place not in run.tokens:
            yield run.maps(latents.cell, latents)
        elif latents.indices:
            yield run.token_maps(latents.cell, latents)
        elif places_of(str(settings.concept), run.tokens[latents.cell.place]):
            maps = run.token_maps(latents.cell)
            yield maps.top(LATENTS_OF_A_WORD, word=str(settings.concept))
        else:
            log.info("left out: %s, whose text has no %s", latents.cell.name, settings.concept)


def _directory_name(study: Study, settings: LookSettings) -> str:
    place = study.cell.conditioning if settings.latents is None else study.cell.key
    ends = (settings.prompt, settings.picture_seed)
    return file_name(settings.subject, f"{place}-{study.cfg.sae.tag}", *ends)


def _write(
    directory: Path, study: Study, settings: LookSettings, made: list[ConceptMaps | TokenMaps]
) -> None:
    """The strip, and the maps behind it."""
    subject = settings.subject
    if settings.latents is None:
        title = f"{subject}, {study.cell.conditioning}: {settings.prompt!r}"
        figure = strip_figure(_row_by_row(made), title=title, columns=len(_times(made)) + 1)
    else:
        figure = made[0].plot()
    with atomic_path(directory / "look.png") as temporary:
        temporary.write_bytes(png_of(figure))
    with atomic_path(directory / "maps.safetensors") as temporary:
        save_file({maps.cell.name: maps.values.contiguous() for maps in made}, temporary)
    about = {"prompt": settings.prompt, "seed": settings.picture_seed, "subject": subject}
    atomic_write_json(directory / "look.json", {**about, "cells": list(map(_described, made))})


def _times(made: list[ConceptMaps | TokenMaps]) -> list[float]:
    """The moments, as the generation goes: from t = 1 down."""
    return sorted({maps.cell.t for maps in made}, reverse=True)


def _row_by_row(made: list[ConceptMaps | TokenMaps]) -> list[Captioned]:
    """A row a block: the picture, then the concept's map, or its tokens, at every moment and the
    largest value."""
    places = {(maps.cell.block, maps.cell.t): maps for maps in made}
    shown: list[Captioned] = []
    for block in dict.fromkeys(maps.cell.block for maps in made):
        shown.append(("picture", made[0].picture))
        for t in _times(made):
            maps = places.get((block, t))
            if maps is None:
                shown.append((f"{block}, t = {t:g}: no latent", None))
                continue
            largest = float(maps.together().max())
            shown.append((f"{block}, t = {t:g}: {largest:.2g}", maps.drawn()))
    return shown


def _described(maps: ConceptMaps | TokenMaps) -> dict[str, Any]:
    tokens = {"tokens": maps.tokens} if isinstance(maps, TokenMaps) else {}
    return tokens | {
        "cell": maps.cell.name,
        **maps.cell.place.coordinates(),
        "latents": maps.latents,
        "labels": [maps.cell.labels_of(latent) for latent in maps.latents],
        "grid": list(maps.values.shape[1:]),
        "largest": [round(float(values.max()), 6) for values in maps.values],
    }
