"""Encoding a split in pieces gives the codes of encoding it whole, and holds no more than a
piece.
"""

import pytest
import torch

from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import load_updates
from diffusae.labelling import codes
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
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


@pytest.mark.parametrize("pictures_at_once", [1, 3, 7])
@pytest.mark.parametrize("keep_updates", [True, False])
def test_pieces_are_the_whole(study, monkeypatch, pictures_at_once, keep_updates):
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
    monkeypatch.setattr(codes, "MOST_PRE_ACTIVATIONS", pictures_at_once * stream.positions * 16)
    coded = codes.coded_split(study, manifest, sae, "dictionary", keep_updates=keep_updates)
    assert coded.image_ids == image_ids and len(coded.prompts) == 7
    assert torch.equal(coded.indices.sort(dim=-1).values, whole.indices.sort(dim=-1).values)
    assert torch.allclose(
        coded.values.sort(dim=-1).values, whole.values.sort(dim=-1).values, rtol=1e-5
    )
    assert max(calls) == pictures_at_once and sum(calls) == 7
    assert torch.equal(coded.updates, updates if keep_updates else updates[:0])
