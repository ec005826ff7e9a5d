"""Reconstruction at one cell: the SAE beside an untrained one and PCA with as many numbers a
vector; a transcoder, beside the linear map of its input to its target.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import read_updates, require_sound
from diffusae.activations.schema import Stream
from diffusae.errors import UserError
from diffusae.evaluation.metric_settings import Count, MetricSettings
from diffusae.evaluation.reconstruction import (
    CodeSums,
    PictureSums,
    fit_linear,
    fit_pca,
    reconstruction_results,
)
from diffusae.evaluation.result import Result
from diffusae.labelling.codes import coded_samples
from diffusae.metrics.metric import Embedding, Metric
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
from diffusae.sae.storage import load_sae
from diffusae.study.streams import stream_of, target_stream_of
from diffusae.study.study import Study

PCA_PICTURES = 64
"""Training pictures that PCA is fitted on: thousands of vectors for some hundred dimensions. More
where they are thinned, so that there are as many vectors. Validation pictures where no training
pictures are stored.
"""


@dataclass(frozen=True, kw_only=True)
class ReconstructionSettings(MetricSettings):
    """`conf/evaluation/reconstruction.yaml`."""

    n_resamples: Count


def reconstruction_rows(
    study: Study, settings: ReconstructionSettings, _embedding: Embedding
) -> list[Result]:
    """Explained variance, FVU, scaled MSE, L0 and dead fraction on the test split; on the split
    `validation` where only codes of the test split are stored. The errors of a transcoder are those
    of its target.
    """
    sae, _ = load_sae(study.sae)
    manifest = Manifest.load(study.activations)
    split = "validation" if study.held_out.coded else "test"
    samples = coded_samples(study, manifest, sae, split)
    stream, target = stream_of(study, manifest), target_stream_of(study, manifest)
    wanted: Iterable[Tensor] = [updates for updates, *_ in samples]
    if target is not None:
        require_sound(study.activations, manifest, streams=[target.folder])
        wanted = _vectors(study, manifest, target, split)
    fitted = "train" if "train" in manifest.splits else "validation"  # the test split never is
    held = manifest.vectors(stream, fitted) / manifest.splits[fitted]["images"]
    pictures = math.ceil(PCA_PICTURES * stream.positions / held)
    if fitted == split:  # baselines never see the pictures that give the figures
        pictures = min(pictures, len(samples) // 2)
        samples = samples[pictures:]
        _require_some(pictures)
    # Never all of them.
    vectors = torch.cat(list(islice(_vectors(study, manifest, stream, fitted), pictures)))
    active = torch.cat([(values > 0).sum(dim=-1) for _, values, _ in samples])
    k = max(1, round(float(active.float().mean())))
    if target is None:
        name, baseline = "pca", fit_pca(vectors, min(k, sae.d_in)).reconstruct
    else:
        targets = torch.cat(list(islice(_vectors(study, manifest, target, fitted), pictures)))
        name, baseline = "linear", fit_linear(vectors, targets)
        vectors = torch.cat([vectors, targets], dim=1)
    untrained = SparseAutoencoder(
        sae.d_in, sae.d_sae, TopK(k), d_target=sae.d_target, seed=study.seed
    )
    untrained.initialise(vectors)
    sums, codes = PictureSums(), {"sae": CodeSums(sae.d_sae), "untrained": CodeSums(sae.d_sae)}
    for (updates, values, indices), aim in zip(samples, wanted, strict=True):
        random = untrained.encode(updates)
        codes["sae"].add(values, indices)
        codes["untrained"].add(*random)
        sums.add(
            aim,
            {"sae": sae(updates), "untrained": untrained.decode(random), name: baseline(updates)},
        )
    rows = reconstruction_results(
        sums,
        codes,
        cell=study.cell.coordinates(),
        n_resamples=settings.n_resamples,
        seed=study.seed,
    )
    return [replace(row, details={"split": split}) for row in rows] if split != "test" else rows


def _vectors(study: Study, manifest: Manifest, stream: Stream, split: str) -> Iterator[Tensor]:
    """The stored vectors [P, d] of a stream, picture by picture."""
    for sample in read_updates(study.activations, manifest, stream, split):
        yield torch.from_numpy(np.array(sample.updates)).float()


def _require_some(pictures: int) -> None:
    if not pictures:
        raise UserError(
            "reconstruction needs two validation pictures where only codes of the test pictures are"
            " stored: one for the baselines, and one for the figures; raise"
            " prompts.counts.validation"
        )


METRIC = Metric(
    name="reconstruction",
    title="How much of an update does its code keep, and with how many latents?",
    section="grid",
    chart={"explained_variance": "Explained variance", "dead_fraction": "Dead fraction"}.get,
    claims={"explained_variance": "Autoencoders reconstruct the updates"},
    seeded=True,
    settings=ReconstructionSettings,
    rows=reconstruction_rows,
)
