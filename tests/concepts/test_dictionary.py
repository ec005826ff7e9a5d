import numpy as np
import pandas as pd
import pytest
import torch

from composing import dictionary_settings
from diffusae.concepts.dictionary import ConceptDictionary, build_dictionary
from diffusae.errors import UserError

GRID = (2, 2)
LEFT, RIGHT = [[1, 0], [1, 0]], [[0, 1], [0, 1]]


class Axes:
    """cat = x, dog = y; no other word is known."""

    name = "axes"

    def known(self, word):
        return word in ("cat", "dog")

    def embed(self, words):
        return torch.tensor([[1.0, 0.0] if word == "cat" else [0.0, 1.0] for word in words])


def picture(name, left_latent, right_latent, **masks):
    """One latent fires on the left half, another one on the right half."""
    indices = torch.tensor([[left_latent], [right_latent], [left_latent], [right_latent]])
    masks = {label: np.array(rows, dtype=bool) for label, rows in masks.items()}
    return name, (torch.ones(4, 1), indices), masks


def build(*pictures, **options):
    settings = dictionary_settings(resize="mask_to_grid", **options)
    return build_dictionary(pictures, settings, d_sae=6, grid=GRID, embedding=Axes())


PICTURES = (
    picture("a", 1, 2, cat=LEFT),
    picture("b", 1, 2, cat=LEFT),
    picture("c", 2, 1, cat=LEFT, dog=RIGHT),
    picture("d", 1, 5, cat=LEFT, ufo=RIGHT),
    picture("e", 4, 4),
)


def test_counts_and_shares_by_hand():
    dictionary = build(*PICTURES)
    table = dictionary.table
    columns = [table[name].tolist() for name in ("latent", "label", "count", "share", "mean_iou")]
    assert list(zip(*columns, strict=True)) == [
        (1, "cat", 3, 0.75, 1.0),
        (1, "dog", 1, 0.25, 1.0),
        (2, "background", 2, 2 / 3, 1.0),
        (2, "cat", 1, 1 / 3, 1.0),
        (5, "ufo", 1, 1.0, 1.0),
    ]
    assert dictionary.facts["n_pictures"] == 5
    assert dictionary.facts["n_annotated"] == 4


def test_a_concept_embedding_is_the_count_weighted_mean_of_its_known_labels():
    dictionary = build(*PICTURES)
    assert dictionary.labels == ["cat", "dog"]
    assert dictionary.facts["labels_without_embedding"] == ["background", "ufo"]
    assert dictionary.embedded_latents.tolist() == [1, 2]
    torch.testing.assert_close(dictionary.embeddings, torch.tensor([[0.75, 0.25], [1.0, 0.0]]))


def test_purity_is_the_largest_share_and_missing_without_labels():
    purity = build(*PICTURES).latents["purity"].tolist()
    assert purity == pytest.approx([np.nan, 0.75, 2 / 3, np.nan, np.nan, 1.0], nan_ok=True)


def test_look_ups_go_both_ways():
    dictionary = build(*PICTURES)
    assert dictionary.labels_of(1) == {"cat": 3, "dog": 1}
    assert dictionary.labels_of(0) == {}
    assert dictionary.latents_of("cat") == [1, 2]
    assert dictionary.latents_of("unicorn") == []


def test_min_count_drops_rare_labels():
    assert build(*PICTURES, min_count=2).table["label"].tolist() == ["cat", "background"]


def test_background_can_be_left_out():
    assert "background" not in set(build(*PICTURES, include_background=False).table["label"])


def test_iou_must_exceed_the_threshold():
    # The mask is half of the latent's map: IoU .5 is not above .5.
    half = picture("a", 1, 1, cat=LEFT)
    assert build(half, include_background=False).table.empty
    assert build(half, include_background=False, iou_threshold=0.49).labels_of(1) == {"cat": 1}


def test_pictures_without_annotations_leave_a_dictionary_without_entries():
    dictionary = build(PICTURES[-1])
    assert dictionary.table.empty
    assert dictionary.embeddings.shape[0] == 0
    assert dictionary.latents["firing_frequency"].tolist() == [0, 0, 0, 0, 1, 0]


def test_saving_and_loading_keeps_everything(tmp_path):
    for number, pictures in enumerate([PICTURES, PICTURES[-1:]]):
        dictionary = build(*pictures)
        dictionary.save(tmp_path / str(number))
        loaded = ConceptDictionary.load(tmp_path / str(number))
        pd.testing.assert_frame_equal(loaded.table, dictionary.table)
        pd.testing.assert_frame_equal(loaded.latents, dictionary.latents)
        assert (loaded.labels, loaded.facts) == (dictionary.labels, dictionary.facts)
        assert torch.equal(loaded.embeddings, dictionary.embeddings)
        assert torch.equal(loaded.embedded_latents, dictionary.embedded_latents)
        assert torch.equal(loaded.label_embeddings, dictionary.label_embeddings)


NAMES = ["dictionary.json", "dictionary.parquet", "latents.parquet", "embeddings.safetensors"]


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_or_missing_file_is_refused(tmp_path, name):
    build(*PICTURES).save(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="label this cell again"):
        ConceptDictionary.load(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        ConceptDictionary.load(tmp_path)


@pytest.mark.parametrize(
    "options", [{"iou_threshold": 1.0}, {"min_count": 0}, {"minimum_area": -0.1}]
)
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(UserError):
        build(*PICTURES, **options)


def test_no_pictures_are_refused():
    with pytest.raises(UserError, match="no pictures"):
        build()
