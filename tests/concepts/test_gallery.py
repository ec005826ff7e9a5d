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


def test_every_noun_is_shown_before_any_a_second_time_and_the_background_once(dictionary):
    rows = [
        (0, "background", 9), (1, "background", 8), (2, "cat", 7), (3, "cat", 6), (4, "cat", 5),
        (5, "dog", 2),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["latent", "label", "count"]).assign(share=1.0)
    many = replace(dictionary, table=table)
    assert most_telling_latents(many, 9) == [0, 2, 5, 3, 4]
    assert most_telling_latents(many, 3) == [0, 2, 5]


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
