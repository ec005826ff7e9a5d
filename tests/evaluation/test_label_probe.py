"""The linear probe on features of known accuracy, and against its own optimality conditions."""

import numpy as np
import pytest

from diffusae.errors import UserError
from diffusae.evaluation.label_probe import Examples, _fitted, _Scaled, linear_probe

CLASSES = 4


def examples(n: int, d: int, seed: int, *, signal: float = 0.0) -> Examples:
    """Noise of d features; every feature of the first half rises by `signal` with one class."""
    rng = np.random.default_rng(seed)
    classes = rng.permutation(np.arange(n) % CLASSES)
    features = rng.normal(size=(n, d))
    features[:, : d // 2] += signal * (classes[:, None] == np.arange(d // 2) % CLASSES)
    return Examples(features, classes)


def splits(d: int, *, signal: float = 0.0, fit: int = 200) -> list[Examples]:
    return [examples(n, d, seed, signal=signal) for seed, n in enumerate((fit, 100, 400))]


@pytest.mark.parametrize("d", [8, 500])  # fewer and more features than pictures
def test_a_feature_that_is_the_class_is_read_without_an_error(d):
    reading = linear_probe(*splits(d, signal=100.0), n_classes=CLASSES)
    assert reading.correct.all()
    assert reading.tune_accuracy == 1


@pytest.mark.parametrize("d", [8, 500])
def test_noise_is_read_at_chance(d):
    reading = linear_probe(*splits(d), n_classes=CLASSES)
    assert reading.correct.mean() == pytest.approx(1 / CLASSES, abs=0.06)


def test_it_is_at_the_minimum_of_its_objective():
    """Slow reference: the objective written out, and every weight moved both ways."""
    x, classes, ridge = examples(60, 3, 5, signal=1.0).features, np.arange(60) % CLASSES, 0.1
    fitted = _fitted(x, classes, ridge, np.zeros((4, CLASSES)))

    def objective(weights):
        logits = x @ weights[:-1] + weights[-1]
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        loss = -np.mean([np.log(p[i, c]) for i, c in enumerate(classes)])
        return loss + ridge / 2 * np.sum(weights[:-1] ** 2)

    least = objective(fitted)
    for place in np.ndindex(fitted.shape):
        for step in (1e-2, -1e-2):
            moved = fitted.copy()
            moved[place] += step
            assert objective(moved) > least


def test_coordinates_of_the_pictures_space_give_the_same_answer_as_the_features():
    fitting, _, test = splits(60, signal=2.0, fit=40)
    scale = _Scaled(fitting.features, common=False)
    x = (fitting.features - fitting.features.mean(axis=0)) / fitting.features.std(axis=0)
    z = (test.features - fitting.features.mean(axis=0)) / fitting.features.std(axis=0)
    direct = _fitted(x, fitting.classes, 0.1, np.zeros((61, CLASSES)))
    spanned = scale(fitting.features)
    assert spanned.shape[1] == 39  # 40 pictures less their mean
    reduced = _fitted(spanned, fitting.classes, 0.1, np.zeros((40, CLASSES)))
    expected = z @ direct[:-1] + direct[-1]
    answer = scale(test.features) @ reduced[:-1] + reduced[-1]
    np.testing.assert_allclose(expected, answer, atol=2e-3)


def test_a_feature_that_never_varies_and_one_of_another_scale_change_nothing():
    plain = splits(8, signal=3.0)
    constants = [np.full((len(split.classes), 1), 7.0) for split in plain]
    odd = [
        Examples(np.hstack([split.features * 1e3, constant]), split.classes)
        for split, constant in zip(plain, constants, strict=True)
    ]
    first, second = linear_probe(*plain, n_classes=CLASSES), linear_probe(*odd, n_classes=CLASSES)
    assert (first.correct == second.correct).mean() > 0.99


def test_a_class_without_fitting_pictures_is_never_predicted():
    fitting, tuning, test = splits(8, signal=100.0)
    shown = fitting.classes != 2
    seen = Examples(fitting.features[shown], fitting.classes[shown])
    reading = linear_probe(seen, tuning, test, n_classes=CLASSES)
    assert not reading.correct[test.classes == 2].any()
    assert reading.correct[test.classes != 2].all()


def test_a_common_scale_is_chosen_where_many_small_features_are_noise():
    small = [
        np.random.default_rng([7, seed]).normal(size=(n, 400)) / 100
        for seed, n in enumerate((200, 100, 400))
    ]
    mixed = [
        Examples(np.hstack([split.features, noise]), split.classes)
        for split, noise in zip(splits(8, signal=4.0), small, strict=True)
    ]
    reading = linear_probe(*mixed, n_classes=CLASSES)
    assert reading.chosen["scaling"] == "common"
    assert reading.correct.mean() > 0.95


def test_impossible_probes_are_refused():
    fitting, tuning, test = splits(8)
    nothing = Examples(np.zeros((0, 8)), np.zeros(0, int))
    with pytest.raises(UserError, match="needs tuning pictures"):
        linear_probe(fitting, nothing, test, n_classes=CLASSES)
    with pytest.raises(UserError, match="lies outside 0 to 2"):
        linear_probe(fitting, tuning, test, n_classes=3)
    with pytest.raises(UserError, match="must be above 0"):
        linear_probe(fitting, tuning, test, n_classes=CLASSES, ridges=[0.0])
    with pytest.raises(UserError, match="not finite"):
        Examples(np.array([[np.nan]]), np.array([0]))
    with pytest.raises(UserError, match="2 features for 1 labels"):
        Examples(np.zeros((2, 1)), np.array([0]))
