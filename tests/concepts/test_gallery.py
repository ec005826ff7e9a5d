from dataclasses import replace

import pandas as pd
import pytest
import torch

from diffusae.concepts.dictionary import ConceptDictionary
from diffusae.concepts.gallery import Gallery, build_gallery, most_telling_latents
from diffusae.errors import UserError

CODES = {
    "a": (torch.tensor([[3.0], [1.0]]), torch.tensor([[0], [1]])),
    "b": (torch.tensor([[2.0], [0.0]]), torch.tensor([[0], [1]])),
}


@pytest.fixture
def dictionary():
    table = pd.DataFrame(
        {
            "latent": [0, 0, 1],
            "label": ["cat", "dog", "cat"],
            "count": [6, 4, 5],
            "share": [0.6, 0.4, 1.0],
        }
    )
    latents = pd.DataFrame({"latent": [0, 1, 2], "top_images": [["a", "b"], ["a"], []]})
    empty = torch.zeros(0)
    return ConceptDictionary(table, latents, [], empty, empty.long(), empty, {"grid": [1, 2]})


def test_often_and_clearly_labelled_latents_come_first(dictionary):
    assert most_telling_latents(dictionary, 9) == [1, 0]
    assert most_telling_latents(dictionary, 1) == [1]


def test_every_noun_shows_its_best_latent_and_the_background_once_at_most(dictionary):
    """Scores, count x share: 0 background 90; 1 background 80, cat 4; 2 cat 40; 3 cat 30, dog 8;
    4 dog 2.
    """
    table = pd.DataFrame(
        {
            "latent": [0, 1, 1, 2, 3, 3, 4],
            "label": ["background", "background", "cat", "cat", "cat", "dog", "dog"],
            "count": [100, 100, 20, 50, 40, 20, 4],
            "share": [0.9, 0.8, 0.2, 0.8, 0.75, 0.4, 0.5],
        }
    )
    dictionary = replace(dictionary, table=table)
    # First the best of background, cat and dog; then the second of cat (3 again) and dog.
    assert most_telling_latents(dictionary, 9) == [0, 2, 3, 4]
    assert most_telling_latents(dictionary, 2) == [0, 2]


def test_a_gallery_holds_the_maps_of_the_top_pictures(dictionary):
    asked = []
    gallery = build_gallery(dictionary, [0, 1, 2], lambda name: asked.append(name) or CODES[name])
    assert gallery.image_ids == [["a", "b"], ["a"], []]
    assert [maps.tolist() for maps in gallery.maps] == [[[[3, 0]], [[2, 0]]], [[[0, 1]]], []]
    assert sorted(asked) == ["a", "b"]


def test_a_gallery_survives_saving_and_loading(dictionary, tmp_path):
    gallery = build_gallery(dictionary, [1, 0, 2], CODES.__getitem__, n_pictures=1)
    gallery.save(tmp_path)
    loaded = Gallery.load(tmp_path)
    assert (loaded.latents, loaded.image_ids) == ([1, 0, 2], [["a"], ["a"], []])
    assert all(torch.equal(a, b) for a, b in zip(loaded.maps, gallery.maps, strict=True))


def test_a_cut_gallery_is_refused(dictionary, tmp_path):
    build_gallery(dictionary, [0], CODES.__getitem__).save(tmp_path)
    path = tmp_path / "gallery.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match=r"gallery.safetensors is damaged"):
        Gallery.load(tmp_path)
