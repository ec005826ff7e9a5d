"""The codes of a cell's pictures: what labelling and evaluation both start from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import load_updates, read_updates, require_sound
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
    return CodedSplit(image_ids, _texts(study, image_ids), updates, codes.values, codes.indices)


def coded_samples(
    study: Study, manifest: Manifest, sae: SparseAutoencoder, split: str
) -> Sequence[tuple[Tensor, Tensor, Tensor]]:
    """Updates [P, d_in], values and indices [P, k] of each sample, whose P may differ (texts); verified first."""
    if not manifest.ragged:
        coded = coded_split(study, manifest, sae, split)
        return list(zip(coded.updates, coded.values, coded.indices, strict=True))
    stream = stream_of(study, manifest)
    require_sound(study.activations, manifest, streams=[stream.folder])
    samples = read_updates(study.activations, manifest, stream, split)
    updates = [torch.from_numpy(np.array(sample.updates)).float() for sample in samples]
    return [(each, *sae.encode(each)) for each in updates]


def _texts(study: Study, image_ids: Sequence[str]) -> list[str]:
    if study.kind == "pictures":  # which need not lie where they were any more
        return [study.cfg.collection.prompt] * len(image_ids)
    texts = {prompt.image_id: prompt.text for prompt in study.prompts}
    return [texts[image_id] for image_id in image_ids]


def _encoded(sae: SparseAutoencoder, updates: Tensor) -> Codes:
    """The codes of all pictures, in pieces where the dense pre-activations would not fit."""
    pictures, positions, _ = updates.shape
    pieces = math.ceil(pictures * positions * sae.d_sae / MOST_PRE_ACTIVATIONS)
    if pieces <= 1:
        return sae.encode(updates)
    each = [sae.encode(piece) for piece in updates.chunk(pieces)]
    return Codes(torch.cat([codes.values for codes in each]), torch.cat([codes.indices for codes in each]))
