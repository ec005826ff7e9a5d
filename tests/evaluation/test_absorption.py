"""Absorption where a latent leaves out red fish, where it fails everywhere alike, and where it is
not there.
"""

import numpy as np
import pytest
from scipy import sparse

from diffusae.evaluation.absorption import absorption, mean_absorption
from diffusae.evaluation.factors import Labels

PICTURES, PLACES = 12, 4
FISH, OTHER = ("noun", "fish"), ("noun", "star")


def world(seed: int) -> tuple[Labels, Labels]:
    """Fish and stars, a third of the fish red, at single places."""
    kind = np.random.default_rng(seed).integers(0, 4, (PICTURES, PLACES))  # 0, 1: blue; 2: red
    holds = np.stack([kind < 3, kind == 3], axis=2)
    coloured = np.stack([kind == 2, kind < 2], axis=2)
    children = (("coloured noun", "red fish"), ("coloured noun", "blue fish"))
    return Labels((FISH, OTHER), holds), Labels(children, coloured)


def measured(codes_of, minimum_f1=0.5, minimum_pictures=1):
    splits = []
    for seed in (0, 1):
        labels, young = world(seed)
        codes = sparse.csc_array(codes_of(labels.flat, young.flat, seed))
        splits.append((codes, labels, [(FISH, young)]))
    return absorption(*splits, minimum_f1=minimum_f1, minimum_pictures=minimum_pictures)


def oracle(labels, young, _seed):
    return np.concatenate([labels, young], axis=1).astype(float)


def absorbing(labels, young, _seed):
    """The latent of fish is silent on red ones; latents of red and blue fish fire."""
    codes = oracle(labels, young, _seed)
    codes[:, 0] -= young[:, 0]
    return codes


def test_an_oracle_absorbs_nothing():
    pairs = measured(oracle)
    assert pairs.names == (("fish", "red fish"), ("fish", "blue fish"))
    assert pairs.absorption().tolist() == [0, 0]
    figure = mean_absorption(pairs, n_resamples=100)
    assert figure.value == 0 and figure.ci95 is not None and figure.ci95[0] < 0 < figure.ci95[1]


def test_a_latent_that_leaves_one_child_out_is_absorbed_there_alone():
    pairs = measured(absorbing)
    found = dict(zip(pairs.names, pairs.absorption().tolist(), strict=True))
    assert found["fish", "red fish"] == 1
    assert found["fish", "blue fish"] <= 0
    assert mean_absorption(pairs, n_resamples=100).n == PICTURES


def test_misses_that_have_nothing_to_do_with_the_child_are_taken_away():
    def missing(labels, young, seed):
        codes = oracle(labels, young, seed)
        codes[:, 0] *= np.random.default_rng(10 + seed).random(len(codes)) < 0.6
        return codes

    pairs = measured(missing)
    instead = pairs.instead.sum(axis=0) / pairs.child.sum(axis=0)
    assert instead.max() > 0.3, "child latents do fire while the parent's is silent"
    assert abs(float(np.mean(pairs.absorption()))) < 0.1


def test_the_excess_by_hand():
    # 4 red fish: the parent is silent on 3, and the child fires on 2 of these and on the other;
    # 5 blue ones, of which the parent misses 1. Excess: 2/4 - 1/5 * 3/4 = .35.
    parent = np.array([1, 0, 0, 0, 1, 1, 1, 1, 0.0])
    red = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0], dtype=bool)
    child = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0.0])
    codes = sparse.csc_array(np.stack([parent, child], axis=1))
    labels = Labels((FISH,), np.ones((1, 9, 1), dtype=bool))
    young = Labels((("coloured noun", "red fish"),), red[None, :, None])
    split = (codes, labels, [(FISH, young)])
    pairs = absorption(split, split, minimum_f1=0.5, minimum_pictures=1)
    assert pairs.absorption()[0] == pytest.approx(0.35)


def test_without_a_latent_for_the_parent_or_enough_pictures_there_is_no_data():
    def noise(labels, _young, seed):
        return np.random.default_rng(seed).random((len(labels), 3)) * (np.arange(3) == 9)

    assert measured(noise).names == ()
    assert mean_absorption(measured(noise)).value is None
    assert measured(oracle, minimum_pictures=PICTURES + 1).names == ()
