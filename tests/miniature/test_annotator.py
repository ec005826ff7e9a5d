import numpy as np
import pytest
import torch

from diffusae.errors import UserError
from diffusae.miniature.annotator import (
    MiniatureAnnotator,
    SegmentationNetwork,
    keep_large_patches,
    save_annotator,
)
from diffusae.miniature.shapes import NOUNS
from diffusae.miniature.styles import COLOURS


def test_small_patches_are_dropped_and_large_ones_kept():
    mask = np.zeros((10, 10), bool)
    mask[0:3, 0:3] = True  # 9 pixels
    mask[6:8, 6:8] = True  # 4 pixels
    kept = keep_large_patches(mask, 5)
    assert kept.sum() == 9
    assert kept[1, 1]
    assert not kept[6, 6]


def test_an_empty_mask_stays_empty():
    assert not keep_large_patches(np.zeros((4, 4), bool), 1).any()


def test_logits_become_named_masks_with_their_main_colour(tmp_path):
    save_annotator(SegmentationNetwork((8, 8)), tmp_path)
    annotator = MiniatureAnnotator(tmp_path, minimum_pixels=4)
    logits = {
        "nouns": torch.zeros(1, 1 + len(NOUNS), 8, 8),
        "colours": torch.zeros(1, 1 + len(COLOURS), 8, 8),
        "style": torch.tensor([[0.0, 9, 0, 0, 0, 0]]),
        "tone": torch.tensor([[9.0, 0, 0, 0]]),
        "grain": torch.tensor([[0.0, 0, 9]]),
    }
    logits["nouns"][:, 0] = 1.0  # background
    logits["nouns"][:, 1 + NOUNS.index("boat"), 2:5, 2:5] = 2.0
    logits["colours"][:, 1 + list(COLOURS).index("pink")] = 1.0
    annotator.network.forward = lambda pictures: logits  # type: ignore[method-assign]
    annotation = annotator.annotate(np.zeros((1, 8, 8, 3), np.uint8))[0]
    assert set(annotation.masks) == {"boat"}
    assert annotation.masks["boat"].sum() == 9
    assert annotation.colours == {"boat": "pink"}
    assert annotation.factors == {"style": "outline", "tone": "night", "grain": "ruled"}


def test_a_missing_network_is_named_with_the_remedy(tmp_path):
    with pytest.raises(UserError, match=r"no annotator at .*diffusae miniature part=annotator"):
        MiniatureAnnotator(tmp_path)
