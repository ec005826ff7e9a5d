"""Purity of planted latents with hand-worked figures."""

import math

import numpy as np
import pytest

from diffusae.errors import UserError
from diffusae.evaluation.purity import (
    Labels,
    PurityJudging,
    class_counts,
    label_entropies,
    majority_labels,
    majority_tag,
    purity_rows,
    sigma_label,
    top_pictures,
)

CELL = {"model": "miniature", "block": "mid", "t": 0.5, "conditioning": "uncond"}


def judged_by(**values: int) -> PurityJudging:
    return PurityJudging(**{"n_top": 10, "n_latents": 1000, "n_draws": 200, **values})


def planted(n_classes=4, a_class=30, seed=0):
    """Pictures of equally frequent classes, and strengths of one pure latent for each class, 40
    random latents and a silent one.
    """
    rng = np.random.default_rng(seed)
    classes = rng.permutation(np.repeat(np.arange(n_classes), a_class))
    pure = (classes[:, None] == np.arange(n_classes)) * rng.uniform(2, 3, (len(classes), n_classes))
    noise = rng.uniform(0.1, 1, (len(classes), 40))
    return np.hstack([pure, noise, np.zeros((len(classes), 1))]), classes


def test_entropy_and_sigma_of_hand_worked_pictures():
    classes = np.array([[0, 0, 0, 0], [0, 0, 3, 3], [0, 1, 2, 3]])
    counts = class_counts(classes, 4)
    assert counts.tolist() == [[4, 0, 0, 0], [2, 0, 0, 2], [1, 1, 1, 1]]
    np.testing.assert_allclose(label_entropies(counts), [0, 1, 2])
    np.testing.assert_allclose(sigma_label(counts), [0, 1.5, math.sqrt(1.25)])
    np.testing.assert_allclose(sigma_label(counts), classes.std(axis=1))


def test_sigma_depends_on_the_numbering_and_entropy_does_not():
    # The same two classes, numbered otherwise.
    near, far = np.array([[2, 2, 0, 0]]), np.array([[2, 0, 0, 2]])
    assert sigma_label(near) < sigma_label(far)
    assert label_entropies(near) == label_entropies(far)


def test_top_pictures_are_the_strongest_of_those_asked_for():
    strengths = np.array([[5.0, 0.0], [1.0, 0.1], [3.0, 0.2], [4.0, 0.0]])
    top = top_pictures(strengths, np.array([1, 2, 3]), judged_by(n_top=2))
    assert top.latents.tolist() == [0, 1]  # by mean activation
    assert top.pictures.tolist() == [[3, 2], [2, 1]]


def test_a_latent_active_in_too_few_pictures_is_not_judged_and_the_strongest_are():
    strengths, classes = planted()
    judging = judged_by(n_top=10, n_latents=4)
    top = top_pictures(strengths, np.arange(len(classes)), judging)
    # Not the silent one; the pure ones are the strongest.
    assert sorted(top.latents.tolist()) == [0, 1, 2, 3]
    few = top_pictures(strengths, np.arange(len(classes)), judged_by(n_top=40))
    assert not set(few.latents.tolist()) & {0, 1, 2, 3, 44}  # pure latents have 30 pictures


def test_planted_pure_latents_have_no_entropy_far_below_both_baselines():
    strengths, classes = planted()
    labels, judging = Labels(classes, list("abcd")), judged_by(n_latents=4, n_draws=50)
    entropy, sigma = purity_rows(strengths, {"object": labels}, judging=judging, cell=CELL)
    assert (entropy.metric, sigma.metric) == ("label_entropy_object", "sigma_label_object")
    assert entropy.value == sigma.value == 0
    assert entropy.estimate.n == 4
    assert not entropy.higher_is_better
    for row in (entropy, sigma):
        for baseline in row.baselines.values():
            assert baseline.ci95 is not None
            assert baseline.ci95[0] > 0.5
    assert sigma.details["other_orders"] == [0, 0]  # one class has no spread in any order


def test_random_latents_are_as_impure_as_random_pictures_and_shuffled_labels():
    rng = np.random.default_rng(1)
    classes = rng.integers(0, 4, 200)
    strengths, labels = rng.uniform(0.1, 1, (200, 400)), Labels(classes, list("abcd"))
    rows = purity_rows(strengths, {"object": labels}, judging=judged_by(n_draws=50), cell=CELL)
    for row in rows:
        assert row.value is not None
        for baseline in row.baselines.values():
            assert row.value == pytest.approx(baseline.value, abs=0.06)
    # Ten pictures of four even classes: below 2 bits, by about (classes - 1) / (2 n ln 2) = 0.22.
    assert rows[0].value == pytest.approx(2 - 0.22, abs=0.05)


def test_pictures_without_a_label_do_not_count():
    strengths, classes = planted()
    strengths[classes == 3, 0] = 100  # they would be the strongest pictures of latent 0
    unlabelled = np.where(classes == 3, -1, classes)
    labels = Labels(unlabelled, list("abc"))
    top = top_pictures(strengths, labels.pictures, judged_by(n_latents=3))
    assert (labels.classes[top.pictures] >= 0).all()
    names, shares = majority_labels(top, labels)
    assert sorted(names) == ["a", "b", "c"]
    assert shares.tolist() == [1, 1, 1]


def test_a_task_without_labels_and_an_sae_without_active_latents_are_no_data():
    strengths, classes = planted()
    for activity, labels in (
        (strengths, Labels(np.full(len(classes), -1), ["a", "b"])),
        (np.zeros_like(strengths), Labels(classes, list("abcd"))),
    ):
        for row in purity_rows(activity, {"object": labels}, judging=judged_by(), cell=CELL):
            assert row.value is None
            assert all(baseline.value is None for baseline in row.baselines.values())


def test_the_majority_tag_counts_a_picture_once_and_the_first_of_equal_tags_wins():
    assert majority_tag([["dog", "dog"], ["cat"], ["cat", "dog"], []]) == ("dog", 0.5)
    assert majority_tag([["cat"], ["cat", "sky"], ["sky", "cat"]]) == ("cat", 1.0)
    assert majority_tag([[], []]) is None


def test_all_settings_out_of_range_are_reported_together():
    faults = r"3 faults[\s\S]*n_top=1[\s\S]*n_latents=0[\s\S]*n_draws=0"
    with pytest.raises(UserError, match=faults):
        judged_by(n_top=1, n_latents=0, n_draws=0)
