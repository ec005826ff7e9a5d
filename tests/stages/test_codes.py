"""Encoding a split picture by picture gives the codes of encoding it whole, rounded as they are
stored, and holds no more than a picture's updates.
"""

import numpy as np
import pytest
import torch

from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import load_updates
from diffusae.labelling import codes
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import BatchTopK, JumpReLU, ReLU, TopK
from diffusae.stages.collect import collect
from diffusae.study.study import Study

STUDY = [
    "debug=tiny",
    "model.steps=2",
    "grid.timesteps=[0.0]",
    "grid.blocks=[mid]",
    "grid.conditionings=[cond]",
    "timestep=final",
    "prompts.counts={train: 2, validation: 1, dictionary: 7, tune: 1, test: 1}",
]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    from composing import compose

    cfg = compose(
        "collect", overrides=[*STUDY, f"paths.outputs={tmp_path_factory.mktemp('outputs')}"]
    )
    collect(cfg)
    return Study(cfg)


@pytest.mark.parametrize("keep_updates", [True, False])
def test_pictures_are_the_whole(study, monkeypatch, keep_updates):
    manifest = Manifest.load(study.activations)
    stream = codes.stream_of(study, manifest)
    image_ids, stored = load_updates(study.activations, manifest, stream, "dictionary")
    updates = torch.from_numpy(stored).float()
    sae = SparseAutoencoder(stream.d_in, 16, TopK(3), seed=0)
    sae.initialise(updates.flatten(0, 1))
    whole = sae.encode(updates)
    calls = []
    encode = SparseAutoencoder.encode
    monkeypatch.setattr(
        SparseAutoencoder, "encode", lambda self, x: calls.append(len(x)) or encode(self, x)
    )
    source = codes.FromUpdates(study, manifest, sae)
    found = codes.coded_split(study, source, "dictionary", keep_updates=keep_updates)
    assert found.image_ids == image_ids and len(found.prompts) == 7
    assert torch.equal(found.indices.sort(dim=-1).values, whole.indices.sort(dim=-1).values)
    assert torch.equal(
        found.values.sort(dim=-1).values, whole.values.half().float().sort(dim=-1).values
    )
    assert calls == [stream.positions] * 7
    assert found.updates is not None
    assert torch.equal(found.updates, updates if keep_updates else updates[:0])


@pytest.mark.parametrize(
    "sparsity",
    [TopK(3), BatchTopK(3), JumpReLU.with_thresholds(torch.full((16,), 0.3)), ReLU(l1=0.1)],
    ids=lambda sparsity: sparsity.name,
)
def test_codes_of_every_sparsity_are_its_active_latents(sparsity):
    sae = SparseAutoencoder(6, 16, sparsity, seed=1).eval()
    updates = torch.randn(40, 6, generator=torch.Generator().manual_seed(2))
    found = codes.PictureEncoder(sae, np.dtype(np.float16))(updates.numpy())
    dense = sae.encode_dense(updates).half()
    assert torch.equal(torch.from_numpy(found.dense(16)), dense.float())
    assert found.counts.tolist() == (dense > 0).sum(dim=1).tolist()
    assert (found.counts.max() <= 3) == (sparsity.name == "topk")
