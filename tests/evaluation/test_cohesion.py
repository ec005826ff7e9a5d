"""Cohesion and separability against hand-worked numbers and a slow reference."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diffusae.errors import UserError
from diffusae.evaluation.cohesion import (
    Items,
    cohesion,
    cohesion_results,
    random_pair,
    separability,
    shuffled,
)

ROOT = math.sqrt(0.5)
CELL = {"model": "m", "block": "mid", "t": 0.5, "conditioning": "cond"}


def items(counts, embeddings=((1.0, 0.0), (0.0, 1.0))) -> Items:
    return Items(torch.tensor(counts), torch.tensor(embeddings))


def rows(given: Items, **options):
    results = cohesion_results(
        given, vocabulary=given.embeddings, embedding="by hand", cell=CELL, **options
    )
    return {row.metric: row for row in results}


def test_items_of_one_label_have_cohesion_1_and_two_right_angles_the_root_of_a_half():
    values = cohesion(items([[3, 0], [1, 1]]))
    torch.testing.assert_close(values, torch.tensor([1.0, ROOT], dtype=torch.double))


def test_items_count_as_often_as_they_were_gained():
    # Mean of (1,0) x 3 and (0,1) x 1 points along (3,1): cosines 3/sqrt(10) and 1/sqrt(10).
    assert cohesion(items([[3, 1]])).item() == pytest.approx((3 * 3 + 1) / 4 / math.sqrt(10))


def test_separability_is_the_mean_cosine_of_different_centres():
    # Centres (1,0), (0,1) and their bisector: cosines 0, root, root.
    assert separability(items([[2, 0], [0, 5], [1, 1]]))[0] == pytest.approx(2 * ROOT / 3)


def test_both_agree_with_a_slow_reference_and_so_does_a_weighted_resample():
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(0, 4, (6, 5), generator=generator) + torch.eye(6, 5, dtype=torch.long)
    vectors = F.normalize(torch.randn(5, 7, generator=generator), dim=1)
    given = Items(counts, vectors)
    means = []
    for row, own in zip(counts.tolist(), cohesion(given).tolist(), strict=True):
        repeated = [vectors[label][None].repeat(count, 1) for label, count in enumerate(row)]
        members = torch.cat(repeated)
        means.append(members.mean(dim=0))
        slow = F.cosine_similarity(members, means[-1][None]).mean().item()
        assert slow == pytest.approx(own, abs=1e-6)
    for drawn in ([0, 1, 2, 3, 4, 5], [0, 0, 2, 3, 3, 3]):
        pairs = [
            F.cosine_similarity(means[a], means[b], dim=0).item()
            for a, b in itertools.permutations(drawn, 2)
            if a != b  # a concept drawn twice makes no pair with itself
        ]
        weights = np.bincount(drawn, minlength=6).astype(float)[None]
        assert separability(given, weights)[0] == pytest.approx(np.mean(pairs), abs=1e-6)


def test_a_shuffle_keeps_the_number_of_items_of_every_concept_and_label():
    given = items([[3, 1], [0, 2], [4, 4]])
    mixed = shuffled(given, torch.Generator().manual_seed(3))
    assert mixed.counts.sum(dim=1).tolist() == [4, 2, 8]
    assert mixed.counts.sum(dim=0).tolist() == [7, 7]


def test_pure_concepts_beat_shuffled_labels_in_both_figures():
    results = rows(items([[8, 0], [0, 8], [6, 0], [0, 6]]))
    assert results["cohesion"].value == pytest.approx(1)
    chance = results["cohesion"].baselines["random_labels"]
    assert chance.ci95 is not None
    assert chance.ci95[1] < 0.95
    # Centres at right angles or equal: pairs 0-2 and 1-3 of six.
    assert results["separability"].value == pytest.approx(1 / 3)
    near = results["separability"].baselines["random_labels"].value
    assert near is not None
    assert near > 1 / 3
    assert results["cohesion"].higher_is_better
    assert not results["separability"].higher_is_better


def test_the_floor_is_the_mean_cosine_of_two_different_words():
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [ROOT, ROOT]])
    assert random_pair(vectors).value == pytest.approx(2 * ROOT / 3)
    assert random_pair(vectors[:1]).n == 0


def test_concepts_of_too_few_items_are_left_out_and_counted():
    results = rows(items([[1, 0], [2, 0], [1, 1]]), minimum_items=2)
    assert results["cohesion"].estimate.n == 2
    assert results["cohesion"].details["n_concepts_left_out"] == 1
    assert results["cohesion"].details["n_concepts_of_one_label"] == 1


def test_every_row_names_its_embedding():
    results = rows(items([[2, 0], [0, 2]])).values()
    assert all(row.details["embedding"] == "by hand" for row in results)


def test_without_concepts_there_are_no_data_and_a_single_one_has_no_separability():
    empty = Items(torch.zeros(0, 2, dtype=torch.long), torch.eye(2))
    assert {row.estimate.n for row in rows(empty).values()} == {0}
    alone = rows(items([[2, 2]]))
    assert alone["cohesion"].estimate.n == 1
    assert alone["separability"].estimate.n == 0


def test_impossible_settings_are_refused_with_their_remedy():
    with pytest.raises(UserError, match=r"minimum_items=0 .* raise evaluation.minimum_items"):
        rows(items([[1, 1]]), minimum_items=0)
    with pytest.raises(UserError, match="n_shuffles=0"):
        rows(items([[1, 1]]), n_shuffles=0)
    with pytest.raises(UserError, match="one embedding for each label"):
        items([[1, 1, 1]])


def test_a_dictionary_of_backgrounds_is_no_data_and_says_why():
    # Label 0 is "background", gained 457 times; label 1 an object, gained 3 times.
    given, objects = items([[450, 0], [7, 0], [0, 3]]), torch.tensor([False, True])
    made = rows(given, objects=objects, minimum_object_labels=20)
    for row in made.values():
        assert row.estimate.value is None
        assert row.baselines["random_labels"].value is None
        assert (row.details["n_object_labels"], row.details["n_other_labels"]) == (3, 457)
    assert rows(given, objects=objects, minimum_object_labels=3)["cohesion"].value == 1.0
