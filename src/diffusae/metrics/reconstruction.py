"""Reconstruction at one cell: the SAE beside an untrained one and PCA with as many numbers a
vector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch

from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import read_updates
from diffusae.errors import UserError
from diffusae.evaluation.metric_settings import Count, MetricSettings
from diffusae.evaluation.reconstruction import (
    CodeSums,
    PictureSums,
    fit_pca,
    reconstruction_results,
)
from diffusae.evaluation.result import Result
from diffusae.labelling.codes import coded_samples
from diffusae.metrics.metric import Embedding, Metric
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
from diffusae.sae.storage import load_sae
from diffusae.study.streams import stream_of
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
    `validation` where only codes of the test split are stored.
    """
    sae, _ = load_sae(study.sae)
    manifest = Manifest.load(study.activations)
    split = "validation" if study.held_out.coded else "test"
    samples = coded_samples(study, manifest, sae, split)
    stream = stream_of(study, manifest)
    fitted = "train" if "train" in manifest.splits else "validation"  # the test split never is
    held = manifest.vectors(stream, fitted) / manifest.splits[fitted]["images"]
    pictures = math.ceil(PCA_PICTURES * stream.positions / held)
    if fitted == split:  # baselines never see the pictures that give the figures
        pictures = min(pictures, len(samples) // 2)
        samples = samples[pictures:]
        _require_some(pictures)
    training = islice(
        read_updates(study.activations, manifest, stream, fitted), pictures
    )  # never all of them
    vectors = torch.from_numpy(np.concatenate([sample.updates for sample in training])).float()
    active = torch.cat([(values > 0).sum(dim=-1) for _, values, _ in samples])
    k = max(1, round(float(active.float().mean())))
    pca = fit_pca(vectors, min(k, sae.d_in))
    untrained = SparseAutoencoder(sae.d_in, sae.d_sae, TopK(k), seed=study.seed)
    untrained.initialise(vectors)
    sums, codes = PictureSums(), {"sae": CodeSums(sae.d_sae), "untrained": CodeSums(sae.d_sae)}
    for updates, values, indices in samples:
        random = untrained.encode(updates)
        codes["sae"].add(values, indices)
        codes["untrained"].add(*random)
        sums.add(
            updates,
            {
                "sae": sae(updates),
                "untrained": untrained.decode(random),
                "pca": pca.reconstruct(updates),
            },
        )
    rows = reconstruction_results(
        sums,
        codes,
        cell=study.cell.coordinates(),
        n_resamples=settings.n_resamples,
        seed=study.seed,
    )
    return [replace(row, details={"split": split}) for row in rows] if split != "test" else rows


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
