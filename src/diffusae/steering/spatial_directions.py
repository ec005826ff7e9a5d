"""The directions that move an object: of its concepts, and of the baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from diffusae.concepts.annotations import Annotations
from diffusae.concepts.dictionary import ConceptDictionary
from diffusae.concepts.maps import share_of_positions
from diffusae.devices import default_device
from diffusae.interventions.directions import Contrast, neuron
from diffusae.interventions.edits import concept_direction
from diffusae.labelling.codes import code_source
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.steering.methods import METHODS, OWN, random_sets
from diffusae.study.study import Study


def directions_of(
    study: Study, sae: SparseAutoencoder, nouns: Sequence[str], *, n_latents: int, draws: int = 1
) -> Directions:
    """The directions of every noun by every method, from the pictures of the dictionary split.

    This happens on the GPU where there is one, and the autoencoder stays there.

    `concepts` and `dictionary_concepts`: the sum of every latent whose dictionary entry holds the
    noun (the paper's C_o). `chosen_latents`: the `n_latents` latents that best distinguish
    positions under the noun from empty ground, weighted. `difference_of_means` and `neuron` come
    from the same positions' updates, and there are none where only codes are stored.
    `random_latent`: `draws` sums of latents that fire and that no entry holds, as many as the
    noun's concepts (at least one), drawn by the study's seed.
    """
    contrasts = _contrasts(study, sae, nouns)
    dictionary = ConceptDictionary.load(study.concepts)
    alive = dictionary.latents.loc[dictionary.latents["pictures_active"] > 0, "latent"]
    free = sorted(set(alive.tolist()) - set(dictionary.table["latent"].tolist())) or alive.tolist()
    drawn = np.random.default_rng(study.seed)
    directions: dict[str, dict[str, list[Tensor]]] = {method: {} for method in METHODS}
    for noun in nouns:
        if contrasts[noun].complete:
            if (telling := contrasts[noun].telling(n_latents)) is not None:
                directions["chosen_latents"][noun] = [telling.direction(sae)]
            if contrasts[noun].has_updates:
                means = contrasts[noun].difference_of_means()
                directions["difference_of_means"][noun] = [means]
                directions["neuron"][noun] = [neuron(means)]
        latents = dictionary.latents_of(noun)
        if latents:
            total = [concept_direction(sae, latents, unit_length=False)]
            directions[OWN][noun] = directions["dictionary_concepts"][noun] = total
        directions["random_latent"][noun] = [
            concept_direction(sae, some, unit_length=False)
            for some in random_sets(free, len(latents), draws, drawn)
        ]
    return directions


def _contrasts(study: Study, sae: SparseAutoencoder, nouns: Sequence[str]) -> dict[str, Contrast]:
    """For every noun: positions that it covers against positions that nothing covers."""
    source = code_source(study, sae)
    masks = Annotations.load(study.annotations).masks
    device = default_device()
    sae.to(device)
    contrasts = {noun: Contrast(sae.d_in, sae.d_sae, device=device) for noun in nouns}
    for picture in source("dictionary"):
        updates, codes = picture.tensors(sae.d_sae, device)
        codes = codes.double()
        shown = masks[picture.image_id]
        covered = [
            share_of_positions([shown[noun]] if noun in shown else [], source.grid) > INSIDE
            for noun in nouns
        ]
        ground = share_of_positions(list(shown.values()), source.grid) < OUTSIDE
        *having, lacking = torch.stack([*covered, ground]).to(device)
        for noun, of_noun in zip(nouns, having, strict=True):
            contrasts[noun].add(updates, codes, having=of_noun, lacking=lacking)
    return contrasts


INSIDE, OUTSIDE = 0.5, 0.05
"""The least share of a position under an object, and the largest share of ground, to count."""

Directions = Mapping[str, Mapping[str, Sequence[Tensor]]]
"""{method: {noun: its directions}}, one direction a draw; a noun may be missing. Sums of concept
vectors are as they are, and other directions have unit length.
"""
