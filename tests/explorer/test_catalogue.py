"""The table of all latents, as it is read from a study's files."""

import json
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import diffusae
from diffusae.errors import UserError
from diffusae.explorer.catalogue import STATISTICS, Catalogue, rounded
from explorer.synthetic_study import NOUNS


def test_every_latent_of_every_cell_has_a_row_in_the_order_of_blocks_and_times(catalogue):
    assert [cell.name for cell in catalogue.cells] == [
        "down-t1.00-cond-k10", "down-t0.50-cond-k10", "mid-t1.00-cond-k10", "mid-t0.50-cond-k10",
    ]  # fmt: skip
    assert len(catalogue) == 4 * 32
    row = catalogue.row_of("down-t0.50-cond-k10", 3)
    assert (row, catalogue.latents[row], catalogue.cell_of(row).name) == (
        35, 3, "down-t0.50-cond-k10",
    )  # fmt: skip


def test_statistics_are_those_of_the_files(catalogue, synthetic_directory):
    cell, latent = "mid-t1.00-cond-k10", 4
    latents = pd.read_parquet(synthetic_directory / "concepts" / cell / "latents.parquet")
    table = pd.read_parquet(synthetic_directory / "concepts" / cell / "dictionary.parquet")
    evaluated = pd.read_parquet(
        synthetic_directory / "evaluation" / "cohesion" / cell / "concepts.parquet"
    )
    row = catalogue.row_of(cell, latent)
    assert catalogue.statistics["frequency"][row] == pytest.approx(
        latents["pictures_active"][latent] / 12, rel=1e-3
    )
    assert catalogue.statistics["density"][row] == pytest.approx(
        latents["firing_frequency"][latent], rel=1e-3
    )
    assert catalogue.statistics["cohesion"][row] == pytest.approx(
        evaluated.set_index("latent")["cohesion"][latent], rel=1e-3
    )
    assert np.isnan(catalogue.statistics["stability"][row])
    own: Any = table[table["latent"] == latent]
    assert [(label, count) for label, count, *_ in catalogue.labels_of(row)] == list(
        zip(own["label"], own["count"], strict=True)
    )
    label, count, iou, share = catalogue.labels_of(row)[0]
    assert catalogue.labels[catalogue.entry_labels[catalogue.main[row]]] == label
    assert iou == pytest.approx(own["mean_iou"].iloc[0], rel=1e-3)
    assert share == pytest.approx(count / own["count"].sum(), rel=1e-3)


def test_latents_without_labels_have_no_entry_and_the_dead_are_marked(catalogue):
    assert catalogue.main[catalogue.row_of("down-t1.00-cond-k10", 0)] == -1
    assert catalogue.labels_of(catalogue.row_of("down-t1.00-cond-k10", 0)) == []
    assert np.flatnonzero(catalogue.dead).tolist() == [31, 63, 95, 127]


def test_a_cell_without_a_dictionary_or_with_a_damaged_one_says_so(synthetic_directory, tmp_path):
    copy = shutil.copytree(synthetic_directory, tmp_path / "synthetic")
    shutil.rmtree(copy / "concepts" / "down-t1.00-cond-k10")
    damaged = copy / "concepts" / "mid-t0.50-cond-k10" / "latents.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    catalogue = Catalogue.of(diffusae.open(copy).cells)
    unlabelled, whole, _, broken = catalogue.cells
    assert "run `diffusae label" in unlabelled.missing and "damaged" in broken.missing
    assert whole.missing == "" and unlabelled.size == 32
    assert np.isnan(catalogue.statistics["density"][unlabelled.rows]).all()
    assert not catalogue.dead[unlabelled.rows].any()


def test_an_unknown_cell_or_latent_is_refused(catalogue):
    with pytest.raises(UserError, match=r"unknown cell 'down-t9.00'.*down-t1.00-cond-k10"):
        catalogue.row_of("down-t9.00", 0)
    with pytest.raises(UserError, match="latents 0 to 31"):
        catalogue.row_of("down-t1.00-cond-k10", 32)


def test_labels_with_the_same_words_or_none_do_not_stop_the_search(catalogue):
    odd = replace(catalogue, labels=["!!", "Fish", "fish", "tree"])
    assert odd.vocabulary == ("Fish", "tree")
    assert odd.vocabulary.label_of("fishes") == "Fish"


def test_label_vectors_are_kept_once_for_all_cells(catalogue):
    names = [label for one in catalogue.vectors for label in one.labels]
    assert sorted(names) == sorted(NOUNS)


def test_rounded_numbers_survive_json_and_four_digits_are_kept():
    values = rounded([0.123456, 0.000123456, 0, 12.3456, 98765.4, -0.5, np.nan])
    assert values[:6].tolist() == [0.1235, 0.0001235, 0, 12.35, 98765, -0.5]
    assert np.isnan(values[6])
    drawn = rounded(np.random.default_rng(0).lognormal(0, 4, 2000))
    assert json.loads(json.dumps(drawn.tolist())) == drawn.tolist()
    assert all(len(f"{v:.17g}".rstrip("0")) and float(f"{v:.4g}") == v for v in drawn if v < 1000)


def test_every_statistic_says_what_it_is():
    assert set(STATISTICS) >= {"iou", "frequency", "density", "cohesion"}
