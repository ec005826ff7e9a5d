"""Diff-C on features with and without a class, and a training that is stopped."""

import numpy as np
import pytest
import torch

from diffusae.errors import UserError
from diffusae.evaluation import diff_c
from diffusae.evaluation.diff_c import NO_CLASS, DiffC, Training, predicted, train_diff_c


def training_of(**values: float) -> Training:
    return Training(**{"lr": 1e-3, "batch_size": 16, "checkpoint_every": 10, **values})  # type: ignore[arg-type]


QUICK = training_of(width=16, lr=3e-3, epochs=12, checkpoint_every=3)


def corner_pictures(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[n, 4, 8, 8] noise; channel 0 is bright in one quarter, its class; averages hide it."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, 4, 8, 8, generator=generator) * 0.3
    classes = torch.randint(4, (n,), generator=generator)
    for row, place in enumerate(classes.tolist()):
        top, left = divmod(place, 2)
        features[row, 0, 4 * top : 4 * top + 4, 4 * left : 4 * left + 4] += 3
    return features, classes


def weights(model: DiffC) -> list[torch.Tensor]:
    return list(model.state_dict().values())


def test_the_network_is_the_papers():
    model = DiffC(1280, {"class": 37}, width=1024, generator=torch.Generator().manual_seed(0))
    assert model.normalise.weight is None  # without affine
    shapes = [tuple(next(layer.parameters()).shape) for layer in (model.first, *model.strided)]
    assert shapes == [(1024, 1280, 3, 3), *[(1024, 1024, 3, 3)] * 3]
    assert [layer.stride for layer in model.strided] == [(2, 2)] * 3


def test_it_learns_a_place_that_averages_do_not_show():
    features, classes = corner_pictures(160, 0)
    unseen, truth = corner_pictures(100, 1)
    model = train_diff_c(features, {"place": classes}, classes={"place": 4}, training=QUICK, seed=0)
    assert (predicted(model, unseen)["place"] == truth.numpy()).mean() > 0.95


def test_labels_that_features_do_not_hold_are_predicted_at_chance():
    features, _ = corner_pictures(160, 0)
    unseen, _ = corner_pictures(400, 1)
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randint(4, (160,), generator=generator)
    truth = torch.randint(4, (400,), generator=generator).numpy()
    model = train_diff_c(features, {"x": drawn}, classes={"x": 4}, training=QUICK, seed=0)
    assert (predicted(model, unseen)["x"] == truth).mean() == pytest.approx(0.25, abs=0.08)


def test_heads_share_a_trunk_and_a_picture_trains_only_its_own_tasks():
    features, place = corner_pictures(200, 0)
    bright = (features[:, 1].mean(dim=(1, 2)) > 0).long()
    targets = {"place": place.clone(), "items": torch.full_like(place, NO_CLASS)}
    targets["place"][:40] = NO_CLASS
    targets["items"][:40] = bright[:40]
    classes = {"place": 4, "items": 2}
    model = train_diff_c(features, targets, classes=classes, training=QUICK, seed=0)
    unseen, truth = corner_pictures(100, 1)
    answers = predicted(model, unseen)
    assert set(answers) == {"place", "items"}
    assert (answers["place"] == truth.numpy()).mean() > 0.9


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    features, classes = corner_pictures(48, 0)
    short = training_of(width=8, lr=1e-3, epochs=2)

    def trained(seed: int) -> list[torch.Tensor]:
        # The global state must not matter.
        torch.manual_seed(np.random.default_rng().integers(2**31))
        model = train_diff_c(features, {"x": classes}, classes={"x": 4}, training=short, seed=seed)
        return weights(model)

    assert all(torch.equal(a, b) for a, b in zip(trained(0), trained(0), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(trained(0), trained(1), strict=True))


class Killed(Exception):
    pass


def test_a_stopped_training_ends_as_one_that_was_not_stopped(tmp_path, monkeypatch):
    features, classes = corner_pictures(48, 0)
    kept = tmp_path / "diff_c.safetensors"
    training = training_of(width=8, lr=1e-3, epochs=7, checkpoint_every=2)

    def train(checkpoint=None):
        options = {"classes": {"x": 4}, "training": training, "seed": 0}
        return train_diff_c(features, {"x": classes}, checkpoint=checkpoint, **options)

    whole = weights(train())
    batches = diff_c._batches
    begun = []

    def dying(*args, epoch, **rest):
        if epoch == 5:
            raise Killed
        return batches(*args, epoch=epoch, **rest)

    monkeypatch.setattr(diff_c, "_batches", dying)
    with pytest.raises(Killed):
        train(kept)

    def watched(*args, epoch, **rest):
        begun.append(epoch)
        return batches(*args, epoch=epoch, **rest)

    monkeypatch.setattr(diff_c, "_batches", watched)
    assert all(torch.equal(a, b) for a, b in zip(whole, weights(train(kept)), strict=True))
    assert begun == [4, 5, 6]


def test_a_damaged_checkpoint_and_one_of_another_training_are_not_continued(tmp_path, caplog):
    features, classes = corner_pictures(32, 0)
    kept = tmp_path / "diff_c.safetensors"
    training = training_of(width=8, lr=1e-3, epochs=3, checkpoint_every=1)

    def train(seed, checkpoint=kept):
        options = {"classes": {"x": 4}, "training": training, "seed": seed}
        return weights(train_diff_c(features, {"x": classes}, checkpoint=checkpoint, **options))

    train(0)
    fresh = train(1, None)
    assert all(torch.equal(a, b) for a, b in zip(fresh, train(1), strict=True))
    assert "of another training" in caplog.text
    kept.write_bytes(b"no tensors")
    assert all(torch.equal(a, b) for a, b in zip(fresh, train(1), strict=True))
    assert "is damaged" in caplog.text


def test_a_last_batch_of_few_pictures_is_left_out_where_others_are_full():
    sizes = [len(rows) for rows in diff_c._batches(33, 16, seed=0, epoch=0)]
    assert sizes == [16, 16]
    assert [len(rows) for rows in diff_c._batches(9, 16, seed=0, epoch=0)] == [9]
    assert len(set(torch.cat(list(diff_c._batches(32, 16, seed=0, epoch=0))).tolist())) == 32


def test_a_pooled_feature_of_one_position_is_read_too():
    features, classes = corner_pictures(32, 0)
    pooled = features.mean(dim=(2, 3), keepdim=True).half()
    once = training_of(width=8, epochs=1)
    model = train_diff_c(pooled, {"x": classes}, classes={"x": 4}, training=once, seed=0)
    assert predicted(model, pooled)["x"].shape == (32,)


def test_impossible_trainings_are_refused():
    features, classes = corner_pictures(32, 0)
    with pytest.raises(UserError, match=r"2 faults[\s\S]*width=0[\s\S]*lr=0"):
        training_of(width=0, epochs=1, lr=0)
    with pytest.raises(UserError, match="two fitting pictures"):
        train_diff_c(features[:1], {"x": classes[:1]}, classes={"x": 4}, training=QUICK, seed=0)
    unlabelled = {"x": torch.full((32,), NO_CLASS)}
    with pytest.raises(UserError, match="32 fitting pictures have no label"):
        train_diff_c(features, unlabelled, classes={"x": 4}, training=QUICK, seed=0)
    features[3, 0, 0, 0] = torch.inf
    with pytest.raises(UserError, match=r"lower diff_c\.lr"):
        train_diff_c(features, {"x": classes}, classes={"x": 4}, training=QUICK, seed=0)
