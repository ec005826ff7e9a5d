"""Maps, histograms, directions and what is kept of them."""

import shutil
from threading import Barrier, Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import diffusae
from diffusae.errors import UserError
from diffusae.explorer.activity import Activity, correlation
from diffusae.explorer.catalogue import Catalogue
from diffusae.explorer.directions import Directions
from diffusae.explorer.kept import Kept
from diffusae.explorer.latent_partners import is_seed
from diffusae.explorer.measured import measured_effects
from diffusae.explorer.pictures import Pictures
from diffusae.sae.storage import load_sae
from explorer.synthetic_study import Size, picture_ids, updates_of


@pytest.fixture(scope="module")
def activity(synthetic) -> Activity:
    return Activity(Pictures(synthetic.settings))


def by_hand(cell, latent: int) -> torch.Tensor:
    """The values of a latent at the two positions of every picture, [12, 2]."""
    sae = load_sae(cell.cell.sae_directory)[0]
    updates = [torch.from_numpy(updates_of(one, Size())).float() for one in picture_ids(Size())]
    made = torch.zeros(len(updates), 2)
    for number, x in enumerate(updates):
        values, indices = sae.encode(x)
        made[number] = torch.where(indices == latent, values, 0).sum(dim=1)
    return made


def test_a_histogram_counts_the_values_of_every_position(activity, catalogue):
    cell = catalogue.cells[0]
    counted = 0
    for latent in range(cell.size):
        values = by_hand(cell, latent).half().float().flatten()
        active = values[values > 0].numpy()
        made = activity.histogram(cell, latent)
        assert (made.pictures, made.silent) == (12, 24 - len(active))
        if len(active):
            expected, _ = np.histogram(active, bins=made.edges)
            assert made.counts.tolist() == expected.tolist()
            assert made.edges[1] == pytest.approx(made.edges[0] * 2**0.5)
        counted += int(made.counts.sum())
    assert counted > 0


def test_maps_are_the_codes_of_the_pictures(activity, catalogue):
    cell, ids = catalogue.cells[0], picture_ids(Size())[:3]
    latent = max(range(cell.size), key=lambda one: float(by_hand(cell, one)[:3].sum()))
    maps = activity.maps_from_codes(cell, latent, ids)
    assert maps.maps.shape == (3, 1, 2)
    assert maps.maps.flatten(1).numpy() == pytest.approx(
        by_hand(cell, latent)[:3].numpy(), rel=1e-3
    )
    assert maps.high == pytest.approx(float(maps.maps.max()))


def test_a_cell_of_which_nothing_is_stored_says_so(activity, catalogue):
    other = catalogue.cells[1]
    assert "unknown stream" in activity.no_maps(other, 31, ["000000"])
    with pytest.raises(UserError, match="unknown stream"):
        activity.histogram(other, 0)


def test_correlation_is_pearsons_on_the_coarser_grid():
    first = torch.tensor([[[1.0, 0.0]]])
    assert correlation(first, torch.tensor([[[0.0, 2.0]]])) == -1
    fine = torch.tensor([[[1.0, 3.0, 0.0, 0.0], [1.0, 3.0, 0.0, 0.0]]])
    assert correlation(first, fine) == 1  # [2, 0] on the coarser grid
    assert correlation(first, torch.ones(1, 1, 2)) is None
    one, other = torch.rand(3, 4, 4), torch.rand(3, 4, 4)
    expected = np.corrcoef(one.flatten(), other.flatten())[0, 1]
    assert correlation(one, other) == pytest.approx(expected, abs=1e-4)


def test_partners_and_nearest_latents_have_the_largest_cosines(catalogue):
    directions, cell = Directions(), catalogue.cells[0]
    own = load_sae(cell.cell.sae_directory)[0].directions
    other = load_sae(catalogue.cells[2].cell.sae_directory)[0].directions
    partners = {one.cell.name: one for one in directions.partners(cell, 5, catalogue.cells)}
    assert set(partners) == {one.name for one in catalogue.cells[1:]}
    cosines = other @ own[5]
    assert partners[catalogue.cells[2].name].latent == int(cosines.argmax())
    assert partners[catalogue.cells[2].name].cosine == pytest.approx(float(cosines.max()), abs=2e-3)
    near = directions.nearest(cell, 5, 3)
    assert [one.latent for one in near] == (own @ own[5]).argsort(descending=True)[1:4].tolist()


def test_autoencoders_of_other_seeds_are_known_by_their_tags(catalogue):
    def named(name: str, place: str = "down") -> Any:
        return SimpleNamespace(name=name, cell=SimpleNamespace(place=place))

    own = named("down-t1.00-cond-k10")
    assert is_seed(named("down-t1.00-cond-k10-seed1"), own)
    assert is_seed(own, named("down-t1.00-cond-k10-seed1"))
    assert not is_seed(named("down-t1.00-cond-k20"), own)
    assert not is_seed(named("down-t1.00-cond-k10-seed1", "mid"), own)


def test_measured_effects_are_those_of_the_test_pictures(catalogue, synthetic_directory, tmp_path):
    copy = shutil.copytree(synthetic_directory, tmp_path / "synthetic")
    cell = Catalogue.of(diffusae.open(copy).cells).cells[0]
    assert measured_effects(cell, ["fish"]) == []
    rows = [
        ("test", "1", "dictionary_concepts", 3.0, "fish", True),
        ("test", "1", "dictionary_concepts", 3.0, "fish", True),
        ("test", "2", "dictionary_concepts", 3.0, "fish", False),
        ("tune", "3", "dictionary_concepts", 3.0, "fish", True),
        ("test", "1", "dictionary_concepts", 3.0, "cat", True),
        ("test", "1", "no_edit", 0.0, "fish", False),
    ]
    columns = ["split", "image_id", "method", "strength", "noun", "success"]
    path = cell.cell.evaluation("spatial") / "objects.parquet"
    path.parent.mkdir(parents=True)
    pd.DataFrame(rows, columns=columns).assign(region="top").to_parquet(path)
    (made,) = measured_effects(cell, ["fish", "boat"])
    assert made.success.value == pytest.approx(2 / 3)
    assert (made.success.counted, made.no_edit.value) == ("3 of 2 pictures", 0.0)
    assert made.path == "evaluation/spatial/down-t1.00-cond-k10/objects.parquet"


def test_kept_values_stay_below_their_bound_and_the_longest_unused_go():
    kept: Kept[str] = Kept(6, len)
    made = []

    def value(text):
        return kept.get(text[0], lambda: made.append(text) or text)

    assert [value(text) for text in ("aaa", "bb", "a--", "ccc", "b--")] == [
        "aaa", "bb", "aaa", "ccc", "b--",
    ]  # fmt: skip
    assert made == ["aaa", "bb", "ccc", "b--"] and kept.used == 6
    assert kept.get("d", lambda: "ddddddd") == "ddddddd" and kept.used == 6


def test_a_value_that_two_threads_ask_for_is_made_once():
    kept: Kept[int] = Kept(10, lambda _: 1)
    made, both = [], Barrier(2)

    def ask():
        both.wait()
        kept.get("key", lambda: made.append(1) or 1)

    threads = [Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
