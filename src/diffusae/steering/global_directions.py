"""The directions that change a whole picture: of the concepts of a style or tone, and of the
baselines.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import read_images
from diffusae.concepts.annotations import Annotations
from diffusae.concepts.maps import share_of_positions
from diffusae.devices import default_device
from diffusae.errors import unknown
from diffusae.interventions.directions import Contrast, neuron
from diffusae.interventions.edits import concept_direction
from diffusae.labelling.codes import code_source
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.storage import load_sae
from diffusae.study.study import Study


@dataclass(frozen=True)
class BlockDirections:
    """One edited block: its SAE, and {(method, factor, value): direction of unit length}."""

    sae: SparseAutoencoder
    directions: dict[tuple[str, str, str], Tensor]


def edited_studies(study: Study, blocks: Sequence[str] | None) -> list[Study]:
    """The study at these blocks, all at the cell's t and branch; None: at its own block."""
    studies = []
    for block in blocks or [study.cell.block]:
        cfg = study.cfg.copy()
        cfg.block.name = block
        studies.append(Study(cfg))
    return studies


def block_directions(
    study: Study,
    shown: Mapping[str, Mapping[str, str]],
    names: Factors,
    *,
    n_latents: int,
    under_objects: Collection[str],
) -> BlockDirections:
    """The directions of every value in the study's block, from the pictures of the dictionary
    split.

    Pictures with a value are set against the others: by their spatial means, or, for the factors
    that show `under_objects`, by the positions that objects cover. `concepts`: the `n_latents`
    latents that tell them apart best, weighted. `difference_of_means` and `neuron` come from the
    same updates, and there are none where only codes are stored; `random_latent` is one that fires
    there. All of it happens on the GPU where there is one, and the block's autoencoder stays there.
    """
    masks = Annotations.load(study.annotations).masks
    sae, _ = load_sae(study.sae)
    source, device = code_source(study, sae), default_device()
    sae.to(device)
    contrasts = {
        (factor, value): Contrast(sae.d_in, sae.d_sae, device=device)
        for factor, values in names.items()
        for value in values
    }
    fired = torch.zeros(sae.d_sae, dtype=torch.bool, device=device)
    for picture in source("dictionary"):
        updates, codes = picture.tensors(sae.d_sae, device)
        fired |= (codes > 0).any(dim=0)
        objects = share_of_positions(list(masks[picture.image_id].values()), source.grid) > COVERED
        mean = None if updates is None else updates.mean(dim=0, keepdim=True)
        everywhere = torch.ones(1, dtype=torch.bool, device=device)
        under = (updates, codes.double(), objects.to(device))
        over_all = (mean, codes.mean(dim=0, keepdim=True), everywhere)
        for (factor, value), contrast in contrasts.items():
            u, z, here = under if factor in under_objects else over_all
            shows = shown[picture.image_id][factor] == value
            contrast.add(u, z, having=here & shows, lacking=here & (not shows))
    alive = fired.nonzero().squeeze(1).tolist()
    drawn = np.random.default_rng(study.seed)
    directions: dict[tuple[str, str, str], Tensor] = {}
    for (factor, value), contrast in contrasts.items():
        directions["random_latent", factor, value] = concept_direction(
            sae, [int(drawn.choice(alive))]
        )
        if not contrast.complete:
            continue
        if (telling := contrast.telling(n_latents)) is not None:
            directions["concepts", factor, value] = telling.direction(sae)
        if contrast.has_updates:
            means = contrast.difference_of_means()
            directions["difference_of_means", factor, value] = means
            directions["neuron", factor, value] = neuron(means)
    return BlockDirections(sae, directions)


def factors_of(annotator: Any, wanted: Sequence[str] | None) -> Factors:
    """The factors that the annotator tells, all of them or those `wanted`; `UserError` for one that
    it does not.
    """
    known: Factors = getattr(annotator, "factors", {})
    wanted = list(known) if wanted is None else wanted
    for factor in wanted:
        if factor not in known:
            raise unknown("factor of this annotator", factor, known)
    return {factor: known[factor] for factor in wanted}


def factors_shown(study: Study, annotator: Any) -> dict[str, dict[str, str]]:
    """What each picture of the dictionary split shows: {image id: {factor: value}}."""
    root = study.held_out.activations
    rows = list(read_images(root, Manifest.load(root), "dictionary"))
    pictures = np.stack([picture for _, picture, _ in rows])
    annotations = annotator.annotate(pictures, [meta["prompt"] for *_, meta in rows])
    return {
        image_id: annotation.factors
        for (image_id, *_), annotation in zip(rows, annotations, strict=True)
    }


COVERED = 0.3
"""Share of a position that objects cover at the least to count as theirs."""

Factors = Mapping[str, Sequence[str]]
"""Factor, such as style, to the names of its values, in the order of the annotator's scores."""
