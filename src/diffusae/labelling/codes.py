"""The codes of a cell's pictures, from which labelling and evaluation start."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
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
"""At a time: 1 GB in float32."""


@dataclass(frozen=True)
class CodedSplit:
    """One split at one cell.

    Attributes:
        values, indices: codes [n, P, k].
        updates: float32 [n, P, d_in]; empty where they are not kept.
    """

    image_ids: list[str]
    prompts: list[str]
    values: Tensor
    indices: Tensor
    updates: Tensor


def encoder_of(
    sae: SparseAutoencoder, device: torch.device | str | None = None
) -> Callable[[Tensor], Codes]:
    """Encodes vectors of the host on the device, by default on the GPU where there is one. Codes
    are on the host.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cpu":
        return sae.encode
    moved = copy.deepcopy(sae).to(device)

    def encode(vectors: Tensor) -> Codes:
        values, indices = moved.encode(vectors.to(device))
        return Codes(values.cpu(), indices.cpu())

    return encode


def coded_split(
    study: Study,
    manifest: Manifest,
    sae: SparseAutoencoder,
    split: str,
    *,
    keep_updates: bool = True,
) -> CodedSplit:
    """Read and encode one split; its shards are verified first.

    Without updates, memory holds the codes and the updates of some pictures at a time.
    """
    stream = stream_of(study, manifest)
    require_sound(study.activations, manifest, streams=[stream.folder])
    positions = manifest.positions(stream, split)
    at_once = max(1, MOST_PRE_ACTIVATIONS // (positions * sae.d_sae))
    image_ids: list[str] = []
    codes: list[Codes] = []
    updates = [torch.empty(0, positions, stream.d_in)]
    samples, encode = read_updates(study.activations, manifest, stream, split), encoder_of(sae)
    while batch := list(islice(samples, at_once)):
        vectors = torch.from_numpy(np.stack([sample.updates for sample in batch])).float()
        image_ids += [sample.image_id for sample in batch]
        codes.append(encode(vectors))
        if keep_updates:
            updates.append(vectors)
    if not codes:
        codes.append(encode(updates[0]))
    return CodedSplit(
        image_ids,
        _texts(study, image_ids),
        values=torch.cat([values for values, _ in codes]),
        indices=torch.cat([indices for _, indices in codes]),
        updates=torch.cat(updates),
    )


def coded_samples(
    study: Study, manifest: Manifest, sae: SparseAutoencoder, split: str
) -> Sequence[tuple[Tensor, Tensor, Tensor]]:
    """Updates [P, d_in], values and indices [P, k] of every sample; its shards are verified first.
    Samples of texts differ in P.
    """
    if not manifest.ragged:
        coded = coded_split(study, manifest, sae, split)
        return list(zip(coded.updates, coded.values, coded.indices, strict=True))
    stream = stream_of(study, manifest)
    require_sound(study.activations, manifest, streams=[stream.folder])
    samples = read_updates(study.activations, manifest, stream, split)
    updates = [torch.from_numpy(np.array(sample.updates)).float() for sample in samples]
    codes = map(encoder_of(sae), updates)
    return [(x, values, indices) for x, (values, indices) in zip(updates, codes, strict=True)]


def _texts(study: Study, image_ids: Sequence[str]) -> list[str]:
    if study.kind == "pictures":  # the given files may be gone by now
        return [study.cfg.collection.prompt] * len(image_ids)
    texts = {prompt.image_id: prompt.text for prompt in study.prompts}
    return [texts[image_id] for image_id in image_ids]


def pooled_codes(
    sae: SparseAutoencoder, updates: Float16[np.ndarray, "n P d_in"]
) -> Float[np.ndarray, "n d_sae"]:
    """The mean over positions of every latent's code, picture by picture (Revelio's pooled
    codes).
    """
    n, positions, _ = updates.shape
    at_once = max(1, MOST_PRE_ACTIVATIONS // (positions * sae.d_sae))
    pooled, encode = np.zeros((n, sae.d_sae), dtype=np.float32), encoder_of(sae)
    for start in range(0, n, at_once):
        codes = encode(torch.from_numpy(updates[start : start + at_once]).float())
        values, indices = codes.values.detach().flatten(1), codes.indices.flatten(1).long()
        sums = torch.zeros(len(values), sae.d_sae).scatter_add_(1, indices, values.float())
        pooled[start : start + at_once] = (sums / positions).numpy()
    return pooled
