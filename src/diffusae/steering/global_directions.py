"""The directions that change a whole picture: of the concepts of a style or tone, and of the
baselines.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusae.activations.codes import PictureCodes, padded
from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import read_images
from diffusae.concepts.annotations import Annotations
from diffusae.concepts.maps import LabelOverlap, Mask, share_of_positions
from diffusae.concepts.settings import DictionarySettings
from diffusae.devices import default_device
from diffusae.errors import unknown
from diffusae.interventions.directions import Contrast, neuron
from diffusae.interventions.edits import concept_direction
from diffusae.labelling.codes import code_source
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.storage import load_sae
from diffusae.steering.methods import OWN, random_sets
from diffusae.study.study import Study


@dataclass(frozen=True)
class BlockDirections:
    """One edited block: its SAE, {(method, factor, value): its directions}, one direction a draw,
    and {(factor, value): number of its concepts}. Sums of concept vectors are as they are, and
    other directions have unit length.
    """

    sae: SparseAutoencoder
    directions: dict[tuple[str, str, str], list[Tensor]]
    concepts: Mapping[tuple[str, str], int] = field(default_factory=dict)


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
    draws: int = 1,
) -> BlockDirections:
    """The directions of every value in the study's block, from the pictures of the dictionary
    split.

    `concepts` and `dictionary_concepts`: the sum of the latents that gain the value by the rule of
    the dictionary (`_Gains`). For the others, pictures with a value are set against those without:
    by their spatial means, or, for the factors that show `under_objects`, by the positions that
    objects cover. `chosen_latents`: the `n_latents` latents that tell them apart best, weighted.
    `difference_of_means` and `neuron` come from the same updates, and there are none where only
    codes are stored. `random_latent`: `draws` sums of latents that fire there, as many as the
    value's concepts (at least one). All of it happens on the GPU where there is one, and the
    block's autoencoder stays there.
    """
    sae, _ = load_sae(study.sae)
    sae.to(default_device())
    contrasts, gains, alive = _compared(study, sae, shown, names, under_objects)
    drawn = np.random.default_rng(study.seed)
    directions: dict[tuple[str, str, str], list[Tensor]] = {}
    concepts: dict[tuple[str, str], int] = {}
    for (factor, value), contrast in contrasts.items():
        latents = gains.concepts(factor, value)
        concepts[factor, value] = len(latents)
        if latents:
            total = [concept_direction(sae, latents, unit_length=False)]
            directions[OWN, factor, value] = total
            directions["dictionary_concepts", factor, value] = total
        directions["random_latent", factor, value] = [
            concept_direction(sae, some, unit_length=False)
            for some in random_sets(alive, len(latents), draws, drawn)
        ]
        if not contrast.complete:
            continue
        if (telling := contrast.telling(n_latents)) is not None:
            directions["chosen_latents", factor, value] = [telling.direction(sae)]
        if contrast.has_updates:
            means = contrast.difference_of_means()
            directions["difference_of_means", factor, value] = [means]
            directions["neuron", factor, value] = [neuron(means)]
    return BlockDirections(sae, directions, concepts)


def _compared(
    study: Study,
    sae: SparseAutoencoder,
    shown: Mapping[str, Mapping[str, str]],
    names: Factors,
    under_objects: Collection[str],
) -> tuple[dict[tuple[str, str], Contrast], _Gains, list[int]]:
    """The contrast of every (factor, value), the latents that gain values, and the latents that
    fire.
    """
    masks, source = Annotations.load(study.annotations).masks, code_source(study, sae)
    device = default_device()
    contrasts = {
        (factor, value): Contrast(sae.d_in, sae.d_sae, device=device)
        for factor, values in names.items()
        for value in values
    }
    gains = _Gains(DictionarySettings.of(study.cfg), source.grid, under_objects)
    fired = torch.zeros(sae.d_sae, dtype=torch.bool, device=device)
    for picture in source("dictionary"):
        objects = list(masks[picture.image_id].values())
        of_picture = {factor: shown[picture.image_id][factor] for factor in names}
        gains.add(picture.codes, objects, of_picture)
        updates, codes = picture.tensors(sae.d_sae, device)
        fired |= (codes > 0).any(dim=0)
        covered = share_of_positions(objects, source.grid) > COVERED
        mean = None if updates is None else updates.mean(dim=0, keepdim=True)
        everywhere = torch.ones(1, dtype=torch.bool, device=device)
        under = (updates, codes.double(), covered.to(device))
        over_all = (mean, codes.mean(dim=0, keepdim=True), everywhere)
        for (factor, value), contrast in contrasts.items():
            u, z, here = under if factor in under_objects else over_all
            shows = of_picture[factor] == value
            contrast.add(u, z, having=here & shows, lacking=here & (not shows))
    return contrasts, gains, fired.nonzero().squeeze(1).tolist()


class _Gains:
    """Which latents gain a value by the rule of the dictionary (Emergence, section 4): the IoU of
    their maps with the value's mask is above the threshold in enough of the pictures that show it.

    Annotators give no masks of styles. The mask is what the objects cover, for the factors that
    show `under_objects`, and the whole picture for the others.
    """

    def __init__(
        self, settings: DictionarySettings, grid: tuple[int, int], under_objects: Collection[str]
    ) -> None:
        self._settings, self._grid, self._under_objects = settings, grid, under_objects
        self._overlap = LabelOverlap(settings)
        self._counts: dict[tuple[str, str], Counter[int]] = defaultdict(Counter)

    def add(self, codes: PictureCodes, objects: Sequence[Mask], shown: Mapping[str, str]) -> None:
        """Add a picture that shows these values; one without an object counts for none."""
        if not objects:
            return
        union = torch.from_numpy(np.stack([np.asarray(mask) for mask in objects]).any(axis=0))
        values, indices = map(torch.from_numpy, padded([codes], self._grid[0] * self._grid[1]))
        stack = torch.stack([union, torch.ones_like(union)])
        _, latents, iou = self._overlap(values, indices, [stack], self._grid)
        gained = iou > self._settings.iou_threshold
        for factor, value in shown.items():
            of_factor = gained[:, 0 if factor in self._under_objects else 1]
            self._counts[factor, value].update(latents[of_factor].tolist())

    def concepts(self, factor: str, value: str) -> list[int]:
        """The latents that gained the value, ascending."""
        counts = self._counts[factor, value].items()
        return sorted(latent for latent, count in counts if count >= self._settings.min_count)


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
