"""What a search finds in a catalogue of two cells, worked out by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diffusae.activations.schema import Cell
from diffusae.errors import UserError
from diffusae.explorer.catalogue import Catalogue, CatalogueCell
from diffusae.explorer.searching import PAGE, Query, find
from diffusae.exploring.cells import OpenCell
from diffusae.exploring.concept_table import LabelVectors, similar_labels
from explorer.synthetic_study import SyntheticWords

LABELS = ["cat", "fish", "hot dog", "tree"]
ENTRIES = [  # row, label, count, iou
    (0, "fish", 6, 0.9), (0, "cat", 2, 0.6),
    (2, "cat", 8, 0.7),
    (3, "fish", 8, 0.55),
    (5, "tree", 3, 0.8), (5, "fish", 1, 0.95),
    (6, "hot dog", 4, 0.75),
]  # fmt: skip


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    """Four latents of `down` at t = 1 and four of `mid` at t = 0; row 1 is dead, row 7 unknown."""
    places = [Cell("miniature", "down", 1.0, "cond"), Cell("miniature", "mid", 0.0, "uncond")]
    cells = [OpenCell(None, place, None, "k4") for place in places]  # type: ignore[arg-type]
    rows, labels, counts, ious = zip(*ENTRIES, strict=True)
    frequency = np.array([0.5, 0, 0.25, 0.75, 0.1, 0.2, 0.3, np.nan])
    vectors = torch.tensor([[0.8, 0.6], [0.96, 0.28], [0.0, 1.0], [0.6, -0.8]])
    return Catalogue(
        cells=[CatalogueCell(cells[0], 0, 4, 8), CatalogueCell(cells[1], 4, 4, 8)],
        latents=np.array([0, 1, 2, 3, 0, 1, 2, 3]),
        statistics={
            "frequency": frequency, "density": frequency / 10, "mean": frequency,
            "cohesion": np.array([0.9, np.nan, 0.8, 0.7, np.nan, 0.6, 0.5, np.nan]),
            "stability": np.full(8, np.nan),
        },
        active_pictures=np.array([8, 0, 8, 8, 3, 4, 5, 0]),
        labels=LABELS,
        entry_rows=np.array(rows),
        entry_labels=np.array([LABELS.index(label) for label in labels]),
        entry_counts=np.array(counts),
        entry_ious=np.array(ious),
        vectors=[LabelVectors("down", "synthetic", LABELS, F.pad(vectors, (0, 14)))],
    )  # fmt: skip


def near(catalogue):
    return lambda word: similar_labels(catalogue.vectors, catalogue.labels, word, SyntheticWords)


def found(catalogue, q="", **asked):
    return find(catalogue, Query(q=q, **asked), near(catalogue))


@pytest.mark.parametrize(
    ("q", "rows"),
    [
        # count x share: row 3 has 8 x 1, row 0 has 6 x 6/8, row 5 has 1 x 1/4
        ("fish", [3, 0, 5]),
        ("Fishes", [3, 0, 5]),
        ("two cats", [2, 0]),
        ("dog", [6]),
        ("hot dogs", [6]),
        ("iou>0.8", [0]),
        ("fish iou>0.8", [0, 5]),
        ("iou>=0.8", [0, 5]),
        ("fish frequency<0.5", [5]),
        ("3", [3, 7]),
        ("2 3", [2, 3, 6, 7]),
        ("fish 0", [0]),
        ("cohesion<=0.6", [6, 5]),
        ("frequency=0", [1]),
        ("zebra", []),
    ],
)
def test_a_search_text_finds(catalogue, q, rows):
    answer = found(catalogue, q)
    assert answer.rows.tolist() == rows


def test_a_word_near_two_labels_finds_their_latents_the_nearest_label_first(catalogue):
    answer = found(catalogue, "animal")
    assert not answer.exact
    assert answer.labels == pytest.approx({"fish": 0.96, "cat": 0.8, "tree": 0.6})
    named = [LABELS[catalogue.entry_labels[entry]] for entry in answer.entries]
    assert list(zip(answer.rows.tolist(), named, strict=True)) == [
        (3, "fish"), (0, "fish"), (5, "fish"), (2, "cat"),
    ]  # fmt: skip


def test_a_word_that_has_no_vector_is_answered_with_the_reason(catalogue):
    answer = found(catalogue, "zebra")
    assert "no nearest label can be said" in answer.note and "zebra" in answer.note


@pytest.mark.parametrize(
    ("asked", "rows"),
    [
        ({"block": "mid"}, [6, 5, 4, 7]),
        ({"t": "1.00"}, [2, 3, 0, 1]),
        ({"branch": "uncond"}, [6, 5, 4, 7]),
        ({"tag": "k9"}, []),
        ({"cell": "down-t1.00-cond-k4"}, [2, 3, 0, 1]),
        ({"label": "cat"}, [2, 0]),
        ({"label": "dragon"}, []),
        ({"label": "fish", "q": "cat"}, [0]),
        ({"dead": "yes"}, [1]),
        ({"dead": "no", "block": "mid"}, [6, 5, 4]),
        ({"sort": "frequency"}, [1, 4, 5, 2, 6, 0, 3, 7]),
        ({"sort": "-frequency"}, [3, 0, 6, 2, 5, 4, 1, 7]),
        ({"sort": "label"}, [2, 0, 3, 6, 5, 1, 4, 7]),
        ({"sort": "-label"}, [5, 6, 0, 3, 2, 1, 4, 7]),
        ({"sort": "latent"}, [0, 4, 1, 5, 2, 6, 3, 7]),
        ({"sort": "-cell"}, [4, 5, 6, 7, 0, 1, 2, 3]),
        ({"sort": "-iou", "q": "fish"}, [5, 0, 3]),
    ],
)
def test_filters_and_sorting_leave_unknown_values_last(catalogue, asked, rows):
    assert found(catalogue, **asked).rows.tolist() == rows


def test_pages_are_cut_from_the_whole_answer(catalogue):
    answer = found(catalogue)
    assert answer.pages == 1 and answer.page(2).rows.tolist() == []
    assert len(answer.page(1).rows) == 8 <= PAGE


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"q": "purity>0.5"}, "unknown statistic 'purity'.*known: cohesion, count"),
        ({"sort": "size"}, "unknown sort 'size'"),
        ({"dead": "maybe"}, "'maybe'; known: no, yes"),
        ({"page": "0"}, "page=0 must be 1 or more"),
        ({"page": "two"}, "'two' must be a number"),
        ({"q": "x" * 201}, "201 characters"),
    ],
)
def test_a_query_that_cannot_be_is_refused(asked, message):
    with pytest.raises(UserError, match=message):
        Query.of(asked)


def test_the_parameters_of_a_changed_query_begin_at_the_first_page():
    query = Query(q="fish", block="mid", page=3)
    assert query.but(sort="-iou") == {"q": "fish", "block": "mid", "sort": "-iou"}
    assert query.but(page=4) == {"q": "fish", "block": "mid", "page": "4"}
    assert Query.of(query.but(page=3)) == query
