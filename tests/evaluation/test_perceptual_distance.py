import sys
from types import ModuleType

import numpy as np
import pytest
import torch
import torchmetrics.image.lpip  # noqa: F401  (before a test puts a stand-in in torchvision's place)
from torch import nn

from diffusae.errors import UserError
from diffusae.evaluation.perceptual_distance import PerceptualDistance

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


def alexnet_layers(*_, **__):
    """The layers of AlexNet with random weights; torchvision, which has them, is not installed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 64, 11, 4, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )


@pytest.fixture
def torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setattr("torchmetrics.image.lpip._TORCHVISION_AVAILABLE", True)
    features = "torchmetrics.functional.image.lpips._get_tv_model_features"
    monkeypatch.setattr(features, alexnet_layers)


def test_a_picture_has_no_distance_to_itself_and_a_stronger_change_is_farther(torchvision):
    distance = PerceptualDistance()
    assert distance(PICTURES, PICTURES) == pytest.approx([0, 0, 0], abs=1e-6)
    noise = np.random.default_rng(1).normal(size=PICTURES.shape)
    weak, strong = (np.clip(PICTURES + s * noise, 0, 255).astype(np.uint8) for s in (5, 60))
    near, far = distance(PICTURES, weak), distance(PICTURES, strong)
    assert all(0 < n < f for n, f in zip(near, far, strict=True))
    assert distance(weak, PICTURES) == pytest.approx(near, abs=1e-6)


def test_batches_of_any_size_give_the_same(torchvision):
    other = PICTURES[::-1].copy()
    whole = PerceptualDistance()(PICTURES, other)
    assert len(whole) == 3
    assert PerceptualDistance(batch_size=1)(PICTURES, other) == pytest.approx(whole, rel=1e-4)
    assert PerceptualDistance()(PICTURES[:0], other[:0]) == []


def test_without_torchvision_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(UserError, match=r"needs a torchvision.*pip install diffusae\[lpips\]"):
        PerceptualDistance()(PICTURES, PICTURES)


def test_weights_that_cannot_be_downloaded_give_the_folder_for_them(torchvision, monkeypatch):
    def fail(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr("torchmetrics.functional.image.lpips._get_tv_model_features", fail)
    with pytest.raises(UserError, match=r"OSError: no route.*hub/checkpoints"):
        PerceptualDistance()(PICTURES, PICTURES)


def test_settings_and_pictures_that_do_not_fit_are_refused():
    known = r"unknown network of LPIPS 'resnet'; known: alex, squeeze, vgg"
    with pytest.raises(UserError, match=known):
        PerceptualDistance("resnet")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="batch_size=0"):
        PerceptualDistance(batch_size=0)
    with pytest.raises(UserError, match="cannot be compared"):
        PerceptualDistance()(PICTURES, PICTURES[:, :32])
