"""Encoding a split in pieces gives the codes of encoding it whole."""

import pytest
import torch

from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
from diffusae.stages import codes


@pytest.mark.parametrize("pictures_at_once", [1, 3, 7])
def test_pieces_are_the_whole(monkeypatch, pictures_at_once):
    updates = torch.randn(7, 6, 8, generator=torch.Generator().manual_seed(0))
    sae = SparseAutoencoder(8, 16, TopK(3), seed=0)
    sae.initialise(updates.flatten(0, 1))
    whole = sae.encode(updates)
    calls = []
    encode = SparseAutoencoder.encode
    monkeypatch.setattr(SparseAutoencoder, "encode", lambda self, x: calls.append(len(x)) or encode(self, x))
    monkeypatch.setattr(codes, "MOST_PRE_ACTIVATIONS", pictures_at_once * 6 * 16)
    found = codes._encoded(sae, updates)
    assert torch.equal(found.indices.sort(dim=-1).values, whole.indices.sort(dim=-1).values)
    assert torch.allclose(found.values.sort(dim=-1).values, whole.values.sort(dim=-1).values, rtol=1e-5)
    assert max(calls) <= pictures_at_once and sum(calls) == 7
