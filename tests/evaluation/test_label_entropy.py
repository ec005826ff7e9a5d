"""Entropy of top pictures' labels against hand-worked numbers."""

import numpy as np
import pytest

from diffusae.errors import UserError
from diffusae.evaluation.label_entropy import LabelVotes, entropy_bits

VOTES = {"a": ["cat"], "b": ["cat"], "c": ["dog"], "d": ["cat", "dog"], "e": [], "f": ["car"]}


def test_entropy_is_in_bits_and_needs_no_normalised_shares():
    entropies = entropy_bits(np.array([[4, 0, 0], [1, 1, 0], [2, 2, 2]]))
    np.testing.assert_allclose(entropies, [0, 1, np.log2(3)])
    assert np.isnan(entropy_bits(np.zeros(3)))


def test_a_picture_of_several_labels_splits_its_vote():
    # cat 1 + 1 + 1/2, dog 1/2: shares 5/6 and 1/6.
    expected = -(5 / 6 * np.log2(5 / 6) + 1 / 6 * np.log2(1 / 6))
    assert LabelVotes(VOTES).entropies([["a", "b", "d"]])[0] == pytest.approx(expected)


def test_one_label_is_pure_and_pictures_without_labels_do_not_vote():
    pure, with_empty, none, empty = LabelVotes(VOTES).entropies([["a", "b"], ["a", "e"], [], ["e"]])
    assert pure == with_empty == 0
    assert not np.signbit(pure)
    assert np.isnan(none)
    assert np.isnan(empty)


def test_random_pictures_of_the_whole_set_have_the_entropy_of_the_whole_set():
    votes = LabelVotes(VOTES)
    estimate = votes.of_random_pictures([6, 6, 6], n_draws=5, seed=0)
    assert estimate.n == 3
    assert estimate.value == pytest.approx(votes.entropies([list(VOTES)])[0])
    assert votes.of_random_pictures([], n_draws=5, seed=0).n == 0


def test_random_pictures_are_those_of_one_permutation_a_latent():
    """The slow way: latent by latent, a fresh order of all pictures, of which the first count."""
    votes, sizes, drawn = LabelVotes(VOTES), [2, 3, 2], np.random.default_rng(4)
    means = []
    for _ in range(7):
        orders = [drawn.permutation(list(VOTES))[:size].tolist() for size in sizes]
        means.append(np.nanmean(votes.entropies(orders)))
    estimate = votes.of_random_pictures(sizes, n_draws=7, seed=4)
    assert estimate.value == np.mean(means)
    assert estimate.ci95 == pytest.approx(np.percentile(means, [2.5, 97.5]))


def test_no_pictures_are_refused():
    with pytest.raises(UserError, match="annotate held-out pictures first"):
        LabelVotes({})
