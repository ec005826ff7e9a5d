"""What the model draws, or what it was given."""

from __future__ import annotations

import os

from diffusae.labelling.class_labels import caption_of
from diffusae.report.gathering import Source
from diffusae.report.sections import Books, Section, View
from diffusae.report.study import FinishedStudy, Picture, Run

MOST = 48


def gather(source: Source) -> dict[str, object]:
    """The first test pictures."""
    study = source.study
    made = Run(os.path.relpath(study.held_out.activations, study.directory))
    return {
        "contact_sheet": [
            Picture(caption=caption_of(meta), image=picture, note=f"seed {meta['seed']}", run=made)
            for _, picture, meta in source.held_out["test"][:MOST]
        ],
        "given": source.manifest is not None
        and source.manifest.header.get("collection") == "pictures",
    }


def view(study: FinishedStudy, books: Books) -> View:
    """Every picture with its drawing."""
    draw = books.pictures.picture
    return {
        "sheet": [
            (picture, draw(picture.image, alt=picture.caption)) for picture in study.contact_sheet
        ]
    }


SECTION = Section("pictures", "Pictures", view, gather)
