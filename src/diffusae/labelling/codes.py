"""The codes of a cell's pictures: what labelling and evaluation both start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, Float16
from torch import Tensor

from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import read_updates, require_sound
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import Codes
from diffusae.study.streams import stream_of
from diffusae.study.study import Study

MOST_PRE_ACTIVATIONS = 2**28
"""Numbers at a time: 1 GB in float32."""


@dataclass(frozen=True)
class CodedSplit:
    """One split at one cell: codes `values` and `indices` [n, P, k], and float32 `updates` [n, P,
    d_in] where they are kept.
    """

    image_ids: list[str]
    prompts: list[str]
    values: Tensor
    indices: Tensor
    updates: Tensor


def coded_split(
    study: Study,
    manifest: Manifest,
    sae: SparseAutoencoder,
    split: str,
    *,
    keep_updates: bool = True,
) -> CodedSplit:
    """Read and encode one split; its shards are verified first. Without the updates (they are then
    empty) memory holds the codes and one piece.
    """
    stream = stream_of(study, manifest)
    require_sound(study.activations, manifest, streams=[stream.folder])
    positions = manifest.positions(stream, split)
    at_once = max(1, MOST_PRE_ACTIVATIONS // (positions * sae.d_sae))
    image_ids: list[str] = []
    codes: list[Codes] = []
    updates = [torch.empty(0, positions, stream.d_in)]
    samples = read_updates(study.activations, manifest, stream, split)
    while some := list(islice(samples, at_once)):
        piece = torch.from_numpy(np.stack([sample.updates for sample in some])).float()
        image_ids += [sample.image_id for sample in some]
        codes.append(sae.encode(piece))
        if keep_updates:
            updates.append(piece)
    if not codes:
        codes.append(sae.encode(updates[0]))
    return CodedSplit(
        image_ids,
        _texts(study, image_ids),
        values=torch.cat([each.values for each in codes]),
        indices=torch.cat([each.indices for each in codes]),
        updates=torch.cat(updates),
    )


def coded_samples(
    study: Study, manifest: Manifest, sae: SparseAutoencoder, split: str
) -> Sequence[tuple[Tensor, Tensor, Tensor]]:
    """Updates [P, d_in], values and indices [P, k] of each sample, whose P may differ (texts);
    verified first.
    """
    if not manifest.ragged:
        coded = coded_split(study, manifest, sae, split)
        return list(zip(coded.updates, coded.values, coded.indices, strict=True))
    stream = stream_of(study, manifest)
    require_sound(study.activations, manifest, streams=[stream.folder])
    samples = read_updates(study.activations, manifest, stream, split)
    updates = [torch.from_numpy(np.array(sample.updates)).float() for sample in samples]
    codes = map(sae.encode, updates)
    return [(each, values, indices) for each, (values, indices) in zip(updates, codes, strict=True)]


def _texts(study: Study, image_ids: Sequence[str]) -> list[str]:
    if study.kind == "pictures":  # which need not lie where they were any more
        return [study.cfg.collection.prompt] * len(image_ids)
    texts = {prompt.image_id: prompt.text for prompt in study.prompts}
    return [texts[image_id] for image_id in image_ids]


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
