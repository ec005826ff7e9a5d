"""Building the concept dictionary of one cell from held-out pictures."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

from omegaconf import DictConfig

from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import read_images
from diffusae.backbone.settings import ModelSettings
from diffusae.concepts.annotations import Annotations
from diffusae.concepts.dictionary import ConceptDictionary, build_dictionary
from diffusae.concepts.embeddings import TextEncoderEmbedding, WordEmbedding
from diffusae.concepts.gallery import Gallery, build_gallery, most_telling_latents
from diffusae.concepts.montage import montage
from diffusae.concepts.settings import DictionarySettings
from diffusae.devices import default_device
from diffusae.errors import UserError
from diffusae.jobs.out_of_memory import tells_memory
from diffusae.labelling.codes import code_source, coded_split
from diffusae.runs.record import parent_signature, state
from diffusae.runs.wandb_mirror import WandbMirror
from diffusae.sae.storage import load_sae
from diffusae.study.study import Study, build

log = logging.getLogger(__name__)

STATISTICS = ("purity", "firing_frequency", "mean_activation")
"""Columns of the dictionary's latents that the table of concepts shows."""


def labelled(study: Study) -> bool:
    """Whether this very labelling is finished; `UserError` where another one's result is in its
    place.
    """
    known = state(study.concepts, determines=_determines(study), parents=lambda: _parents(study))
    return known == "finished"


def word_embedding(study: Study, node: DictConfig | None = None) -> WordEmbedding:
    """The word embedding of the study, or of another config node. An embedding by the model's own
    text encoder gets that encoder.
    """
    node = study.cfg.embedding if node is None else node
    assert node is not None
    if not str(node.get("_target_")).endswith(TextEncoderEmbedding.__name__):
        return build(node, "embedding")
    model = ModelSettings.of(study.cfg)
    tokenizer, text_encoder = _text_parts(model.source, model.revision)
    return build(node, "embedding", tokenizer=tokenizer, text_encoder=text_encoder)


@lru_cache(maxsize=1)
def _text_parts(source: str, revision: str | None) -> tuple[Any, Any]:
    """The model's tokenizer and text encoder, loaded once for all cells of a process."""
    import torch

    from diffusae.backbone.load import load_pipeline

    pipe: Any = load_pipeline(
        source, dtype=torch.float32, device="cpu", revision=revision, scheduler="keep"
    )
    return pipe.tokenizer, pipe.text_encoder


@tells_memory("labelling", "prompts.counts.dictionary", "sae.d_sae")
def label_cell(study: Study, mirror: WandbMirror, embedding: WordEmbedding) -> None:
    """Build and write one cell's dictionary and gallery, and mirror the gallery as a table."""
    if fault := study.text_fault:
        raise UserError(f"labels come of masks of pictures: {fault}")
    if labelled(study):
        return
    settings = DictionarySettings.of(study.cfg)
    with study.recorded(
        study.concepts, "label", determines=_determines(study), parents=_parents(study)
    ):
        sae, _ = load_sae(study.sae)
        source = code_source(study, sae)
        split = coded_split(study, source, "dictionary")
        masks = Annotations.load(study.annotations).masks
        codes = {
            i: (v, x) for i, v, x in zip(split.image_ids, split.values, split.indices, strict=True)
        }
        dictionary = build_dictionary(
            ((image_id, pair, masks[image_id]) for image_id, pair in codes.items()),
            settings,
            d_sae=sae.d_sae,
            grid=source.grid,
            embedding=embedding,
            device=default_device(),
        )
        dictionary.save(study.concepts)
        shown = most_telling_latents(dictionary, settings.gallery_latents)
        gallery = build_gallery(dictionary, shown, codes.__getitem__)
        gallery.save(study.concepts)
    if mirror.mode != "disabled":
        columns, rows = _concepts(study, dictionary, gallery)
        mirror.table("concepts", columns, rows)
        mirror.panel(
            "gallery",
            [(f"latent {latent}: {labels}", drawn) for latent, _, labels, *_, drawn in rows],
        )


def _concepts(
    study: Study, dictionary: ConceptDictionary, gallery: Gallery
) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the table of concepts: one row a latent of the gallery."""
    shown = {image_id for image_ids in gallery.image_ids for image_id in image_ids}
    root = study.held_out.activations
    images = {
        image_id: picture
        for image_id, picture, _ in read_images(root, Manifest.load(root), "dictionary")
        if image_id in shown
    }
    main: Any = dictionary.table.drop_duplicates("latent").set_index("latent")
    latents: Any = dictionary.latents.set_index("latent")
    rows = []
    for latent, image_ids, maps in zip(
        gallery.latents, gallery.image_ids, gallery.maps, strict=True
    ):
        labels = ", ".join(
            f"{label} ({count})" for label, count in dictionary.labels_of(latent).items()
        )
        figures = [
            float(main.at[latent, "mean_iou"]),
            *map(float, latents.loc[latent, list(STATISTICS)]),
        ]
        pictures = [(images[i], heat.numpy()) for i, heat in zip(image_ids, maps, strict=True)]
        rows.append([latent, main.at[latent, "label"], labels, *figures, montage(pictures)])
    return ["latent", "main label", "labels", "mean_iou", *STATISTICS, "pictures"], rows


def _determines(study: Study) -> dict[str, Any]:
    embedding, dictionary = study.part("embedding"), study.part("dictionary")
    return {"cell": study.cell.coordinates(), "embedding": embedding, "dictionary": dictionary}


def _parents(study: Study) -> dict[str, str]:
    return {
        "train": parent_signature(study.sae, stage="train"),
        "annotate": parent_signature(study.annotations, stage="annotate"),
    }
