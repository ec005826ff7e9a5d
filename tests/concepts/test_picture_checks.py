"""NudeNet and Q16 by adapter: their rules on stand-ins, and the message without them."""

import sys
import types

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from diffusae.concepts.image_text import ImageText
from diffusae.concepts.picture_checks import NudeNetCheck, Q16Check
from diffusae.errors import UserError


@pytest.fixture
def nudenet(monkeypatch):
    """A package whose detector reads the picture's first pixel: its blue is a breast's score."""

    class NudeDetector:
        def detect(self, image):
            breast = {"class": "FEMALE_BREAST_EXPOSED", "score": image[0, 0, 0] / 100}
            return [breast, {"class": "FACE_FEMALE", "score": 1.0}]

    package = types.ModuleType("nudenet")
    package.NudeDetector = NudeDetector  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nudenet", package)


def pictures(*blues: int) -> np.ndarray:
    images = np.zeros((len(blues), 4, 4, 3), np.uint8)
    images[:, 0, 0, 2] = blues
    return images


def test_a_part_of_the_classes_at_the_threshold_counts_and_a_face_does_not(nudenet):
    assert NudeNetCheck(threshold=0.6).shows(pictures(59, 60, 90)) == [False, True, True]
    assert NudeNetCheck(classes=["BUTTOCKS_EXPOSED"]).shows(pictures(90)) == [False]


def test_without_the_package_the_message_has_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "nudenet", None)
    with pytest.raises(UserError, match=r"NudeNet is not installed.*pip install nudenet"):
        NudeNetCheck().shows(pictures(0))
    with pytest.raises(UserError, match="name classes"):
        NudeNetCheck(classes=[])
    with pytest.raises(UserError, match="threshold=2"):
        NudeNetCheck(threshold=2)


def test_q16_says_which_of_its_two_prompts_a_picture_is_nearer_to(tiny, noise, tmp_path):
    vectors = ImageText(tiny["clip"]).embed_images(noise)
    prompts = torch.stack([vectors[0], vectors[1]]) * 7
    save_file({"prompts": prompts}, path := tmp_path / "q16.safetensors")
    answers = Q16Check(str(tiny["clip"]), path).shows(noise)
    assert answers[:2] == [False, True]
    assert answers[2] == bool(vectors[2] @ vectors[1] > vectors[2] @ vectors[0])


def test_q16s_prompts_are_safetensors_of_two_rows_of_the_models_width(tiny, noise, tmp_path):
    for wrong in (None, tmp_path / "prompts.p"):
        with pytest.raises(UserError, match="is no safetensors file"):
            Q16Check(str(tiny["clip"]), wrong).shows(noise)
    save_file({"prompts": torch.ones(3, 8)}, path := tmp_path / "three.safetensors")
    with pytest.raises(UserError, match="two rows"):
        Q16Check(str(tiny["clip"]), path).shows(noise)
    save_file({"prompts": torch.ones(2, 999)}, path := tmp_path / "wide.safetensors")
    with pytest.raises(UserError, match="vectors of 999"):
        Q16Check(str(tiny["clip"]), path).shows(noise)
