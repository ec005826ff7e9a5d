"""The directions of every method, by hand; pictures of the split `dictionary` alone are read."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from diffusae.activations.codes import PictureCodes
from diffusae.labelling.codes import CodedPicture
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
from diffusae.steering import spatial_directions
from diffusae.steering.spatial_directions import directions_of


class Source:
    """One picture of two positions; the cat is on the first one."""

    grid = (1, 2)

    def __call__(self, split: str) -> list[CodedPicture]:
        assert split == "dictionary", f"directions were taken from the split {split}"
        updates = np.array([[3.0, 0.0, 0.0], [0.0, 0.0, 1.0]], np.float32)
        values, indices = np.array([[3.0], [1.0]], np.float32), np.array([[0], [2]])
        codes = PictureCodes.of(values, indices, d_sae=3, dtype=np.dtype(np.float32))
        return [CodedPicture("p", codes, updates)]


@pytest.fixture
def study(monkeypatch) -> Any:
    dictionary = SimpleNamespace(
        latents=pd.DataFrame({"latent": [0, 1, 2], "pictures_active": [1, 1, 1]}),
        table=pd.DataFrame({"latent": [0, 2], "label": ["cat", "cat"]}),
        latents_of=lambda noun: [0, 2] if noun == "cat" else [],
    )
    masks = {"p": {"cat": np.array([[True, False]])}}
    for name, value in (
        ("ConceptDictionary", SimpleNamespace(load=lambda _: dictionary)),
        ("Annotations", SimpleNamespace(load=lambda _: SimpleNamespace(masks=masks))),
        ("code_source", lambda *_: Source()),
    ):
        monkeypatch.setattr(spatial_directions, name, value)
    return SimpleNamespace(concepts="", annotations="", seed=0)


def test_every_method_has_its_direction(study):
    sae = SparseAutoencoder(3, 3, TopK(1), input_scaling="none")
    with torch.no_grad():
        sae.W_dec.copy_(torch.eye(3))
    found = directions_of(study, sae, ["cat", "dog"], n_latents=2, draws=4)
    of_cat = {method: [one.cpu().tolist() for one in of["cat"]] for method, of in found.items()}
    assert of_cat["concepts"] == of_cat["dictionary_concepts"] == [[1.0, 0.0, 1.0]]  # as it is
    assert of_cat["chosen_latents"] == [[1.0, 0.0, 0.0]]  # latent 2 is larger without the cat
    assert of_cat["difference_of_means"][0] == pytest.approx([3 / 10**0.5, 0, -1 / 10**0.5])
    assert of_cat["neuron"] == [[1.0, 0.0, 0.0]]
    assert of_cat["random_latent"] == [[0.0, 1.0, 0.0]] * 4  # the one latent without an entry
    assert {method for method, of in found.items() if "dog" in of} == {"random_latent"}
