"""The gallery: the best latents of every cell, with their labels and top pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
from markupsafe import Markup

from diffusae.concepts.dictionary import ConceptDictionary
from diffusae.concepts.gallery import Gallery
from diffusae.concepts.maps import BACKGROUND
from diffusae.report import pictures
from diffusae.report.commands import command, text
from diffusae.report.gathering import Source
from diffusae.report.pictures import PictureBook
from diffusae.report.sections import Books, Section, View, asks_something_else
from diffusae.report.study import Concept, FinishedStudy
from diffusae.report.tables import cell_order, conditionings_of, main_block


def gather(source: Source) -> dict[str, object]:
    """The galleries of all cells."""
    return {"concepts": list(_concepts(source))}


def _concepts(source: Source) -> Iterator[Concept]:
    for directory, record in source.labelled:
        dictionary = ConceptDictionary.load(directory)
        latents: Any = dictionary.latents.set_index("latent")
        settings = record.config.get("sae", {})
        of_background = 0
        for latent, image_ids, maps in Gallery.load(directory).entries():
            labels = list(dictionary.labels_of(latent).items())
            if labels and labels[0][0] == BACKGROUND:
                of_background += 1
                if of_background > 1:  # they all say the same
                    continue
            purity = float(latents.at[latent, "purity"])
            concept = source.concept(
                directory,
                record,
                latent,
                labels=labels,
                purity=None if math.isnan(purity) else purity,
                firing_frequency=float(latents.at[latent, "firing_frequency"]),
                pictures=source.shown(image_ids, maps),
            )
            caption = next((source.captions[i] for i in image_ids if i in source.captions), "")
            yield replace(concept, steer=steer_command(source.study, concept, settings, caption))


def steer_command(study: Any, concept: Concept, sae: dict[str, Any], prompt: str) -> str:
    """The command that steers the prompt with one latent of its cell; "" without a prompt."""
    if not prompt:
        return ""
    overrides = {
        "name": study.name,
        "model": study.cfg.model.name,
        "block.name": concept.block,
        "timestep.t": f"{concept.t:g}",
        "conditioning.branch": concept.conditioning,
        "sae.k": sae.get("k"),
        "sae.tag": sae.get("tag"),
        "latents": f"[{concept.latent}]",
        "prompt": text(prompt),
    }
    return command("steer", overrides)


@dataclass(frozen=True)
class Card:
    """A card of the gallery: every picture, and the same picture under the latent's map."""

    concept: Concept
    pairs: list[tuple[Markup, Markup]]


@dataclass(frozen=True)
class Group:
    """The cards of one cell."""

    block: str
    t: float
    conditioning: str
    opened: bool
    cards: list[Card]


def groups_of(concepts: Sequence[Concept], book: PictureBook) -> list[Group]:
    """The cards by cell, all of cond before all of uncond; the main block's cells are unfolded."""

    def cell(concept: Concept) -> tuple[str, float, str]:
        return concept.block, concept.t, concept.conditioning

    conditionings = conditionings_of(concept.conditioning for concept in concepts)
    ordered = sorted(
        concepts,
        key=lambda concept: (
            conditionings.index(concept.conditioning),
            *cell_order(*cell(concept)),
        ),
    )
    shown = (
        (main_block(concept.block for concept in concepts), conditionings[0]) if concepts else None
    )
    return [
        Group(*key, (key[0], key[2]) == shown, [_card(concept, book) for concept in members])
        for key, members in groupby(ordered, key=cell)
    ]


def _card(concept: Concept, book: PictureBook) -> Card:
    peak = max((float(np.nan_to_num(heat).max()) for _, heat in concept.pictures), default=0.0)
    name = f"latent {concept.latent}"
    return Card(
        concept,
        [
            (
                book.picture(image, alt=f"{name}, top picture {rank}"),
                book.picture(
                    image,
                    alt=f"where {name} is active in top picture {rank}",
                    layers=[pictures.heat(heat, image, high=peak)],
                ),
            )
            for rank, (image, heat) in enumerate(concept.pictures, start=1)
        ],
    )


def view(study: FinishedStudy, books: Books) -> View | None:
    """The groups of cards."""
    if not study.concepts and asks_something_else(study):
        return None
    return {"concepts": groups_of(study.concepts, books.pictures)}


SECTION = Section("concepts", "Concepts", view, gather)
