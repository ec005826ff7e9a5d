"""Finding the objects in the held-out pictures, once for all cells."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import read_images, require_sound
from diffusae.activations.schema import IMAGES
from diffusae.concepts.annotations import annotate_pictures
from diffusae.concepts.annotators import Images
from diffusae.errors import UserError, together
from diffusae.jobs.out_of_memory import tells_memory
from diffusae.jobs.progress import progress_bar
from diffusae.runs.record import parent_signature, state
from diffusae.sources import fingerprint
from diffusae.study.streams import SEEN_SPLITS
from diffusae.study.study import Study, build

log = logging.getLogger(__name__)


def annotated(study: Study) -> bool:
    """Whether these very annotations are finished.

    Raises:
        UserError: those of another annotator are in their place.
    """
    known = state(study.annotations, determines=_determines(study), parents=lambda: _parents(study))
    return known == "finished"


@tells_memory("annotation", "annotator.batch_size")
def annotate_into(study: Study) -> bool:
    """Annotate for a caller that holds the lock; False: the annotations are finished already."""
    if annotated(study):
        log.info("%s is annotated already", study.annotations)
        return False
    if study.kind == "generation":  # the model says nothing about given pictures
        together(annotator_faults(study))
    annotator = build(study.cfg.annotator, "annotator")
    root = study.held_out.activations
    manifest = Manifest.load(root)
    if manifest.image_size is None:
        raise UserError(
            f"{root} keeps no pictures (collection={study.kind}), so there is nothing"
            " to annotate; choose collection=generation or given pictures"
        )
    require_sound(root, manifest, streams=[IMAGES])
    with study.recorded(
        study.annotations,
        "annotate",
        determines=_determines(study),
        parents=_parents(study),
        locks=False,
    ):
        annotations = annotate_pictures(annotator, _pictures(study, manifest))
        annotations.save(study.annotations)
        masks = annotations.masks
        empty = sum(not masks.nouns(image_id) for image_id in masks)
        log.info("annotated %d pictures; in %d nothing was found", len(masks), empty)
    return True


def _pictures(study: Study, manifest: Manifest) -> Iterator[tuple[str, Images, str]]:
    """The pictures of all held-out splits with their captions, one at a time."""
    root = study.held_out.activations
    total = sum(manifest.splits[split]["images"] for split in SEEN_SPLITS)
    with progress_bar("pictures annotated", total=total) as (advance, _):
        for split in SEEN_SPLITS:
            for image_id, picture, meta in read_images(root, manifest, split):
                yield image_id, picture, meta["prompt"]
                advance(1)


def annotator_faults(study: Study) -> Iterator[str]:
    """What is wrong where the annotator was made for pictures of other models."""
    models, model = study.cfg.annotator.get("models"), study.cfg.model.name
    if models is not None and model not in models:
        yield (
            f"this annotator judges pictures of {', '.join(models)} alone, and model.name={model};"
            " choose annotator=grounded_sam or annotator=clipseg, or, if the pictures are of the"
            " same kind, name the model in annotator.models"
        )


def _determines(study: Study) -> dict[str, Any]:
    return {"annotator": determining(study.part("annotator"))}


def _parents(study: Study) -> dict[str, str]:
    return {"collect": parent_signature(study.held_out.activations, stage="collect")}


_INDIFFERENT = ("batch_size", "boxes_at_once", "pairs_at_once", "cache", "device", "models")
"""Settings of annotators that do not change what they find."""


def determining(settings: Any) -> Any:
    """The settings of an annotator that determine its result, with the contents of local model
    folders in the place of their paths.
    """
    if not isinstance(settings, dict):
        return [determining(part) for part in settings] if isinstance(settings, list) else settings
    kept = {
        name: determining(value) for name, value in settings.items() if name not in _INDIFFERENT
    }
    for name in ("folder", "source"):
        if isinstance(kept.get(name), str) and (files := fingerprint(kept[name])) is not None:
            kept[name] = f"files {files}"
    return kept
