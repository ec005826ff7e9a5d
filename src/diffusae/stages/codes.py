"""The codes of a cell's pictures: what labelling and evaluation both start from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float16
from torch import Tensor

from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import load_updates, require_sound
from diffusae.activations.schema import Stream
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import Codes
from diffusae.stages.study import Study

MOST_PRE_ACTIVATIONS = 2**28
"""Numbers at a time: 1 GB in float32."""


@dataclass(frozen=True)
class CodedSplit:
    """One split at one cell: float32 `updates` [n, P, d_in], codes `values` and `indices` [n, P, k]."""

    image_ids: list[str]
    prompts: list[str]
    updates: Tensor
    values: Tensor
    indices: Tensor


def stream_of(study: Study, manifest: Manifest) -> Stream:
    """The recorded stream of the study's cell."""
    return manifest.stream(study.cell.block, study.cell.t, study.cell.conditioning)


def coded_split(study: Study, manifest: Manifest, sae: SparseAutoencoder, split: str) -> CodedSplit:
    """Read and encode one split; its shards are verified first."""
    stream = stream_of(study, manifest)
    require_sound(study.activations, manifest, streams=[stream.folder])
    image_ids, stored = load_updates(study.activations, manifest, stream, split)
    updates = torch.from_numpy(stored).float()
    codes = _encoded(sae, updates)
    texts = {prompt.image_id: prompt.text for prompt in study.prompts}
    return CodedSplit(image_ids, [texts[i] for i in image_ids], updates, codes.values, codes.indices)


def _encoded(sae: SparseAutoencoder, updates: Tensor) -> Codes:
    """The codes of all pictures, in pieces where the dense pre-activations would not fit."""
    pictures, positions, _ = updates.shape
    pieces = math.ceil(pictures * positions * sae.d_sae / MOST_PRE_ACTIVATIONS)
    if pieces <= 1:
        return sae.encode(updates)
    each = [sae.encode(piece) for piece in updates.chunk(pieces)]
    return Codes(torch.cat([codes.values for codes in each]), torch.cat([codes.indices for codes in each]))


def pooled_codes(
    sae: SparseAutoencoder, updates: Float16[np.ndarray, "n P d_in"]
) -> Float[np.ndarray, "n d_sae"]:
    """The mean over positions of every latent's map, picture by picture: Revelio's pooled codes."""
    n, positions, _ = updates.shape
    at_once = max(1, MOST_PRE_ACTIVATIONS // (positions * sae.d_sae))
    pooled = np.zeros((n, sae.d_sae), dtype=np.float32)
    for start in range(0, n, at_once):
        codes = sae.encode(torch.from_numpy(updates[start : start + at_once]).float())
        values, indices = codes.values.detach().flatten(1), codes.indices.flatten(1).long()
        sums = torch.zeros(len(values), sae.d_sae).scatter_add_(1, indices, values.float())
        pooled[start : start + at_once] = (sums / positions).numpy()
    return pooled
