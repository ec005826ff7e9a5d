import numpy as np
import pytest
import torch

from diffusae.errors import UserError
from diffusae.miniature.annotator import (
    MiniatureAnnotator,
    SegmentationNetwork,
    large_patches,
    save_annotator,
)
from diffusae.miniature.worlds import SCENES, SHAPES


def test_small_patches_are_dropped_and_large_ones_kept():
    mask = np.zeros((10, 10), bool)
    mask[0:3, 0:3] = True  # 9 pixels
    mask[6:8, 6:8] = True  # 4 pixels
    (kept,) = large_patches(mask, 5)
    assert kept.sum() == 9
    assert kept[1, 1]
    assert not kept[6, 6]


def test_an_empty_mask_has_no_patches():
    assert large_patches(np.zeros((4, 4), bool), 1) == []


def test_logits_become_named_masks_with_their_main_colour(tmp_path):
    save_annotator(SegmentationNetwork(SHAPES, (8, 8)), tmp_path)
    annotator = MiniatureAnnotator(tmp_path, minimum_pixels=4)
    logits = {
        "nouns": torch.zeros(1, 1 + len(SHAPES.labels), 8, 8),
        "colours": torch.zeros(1, 1 + len(SHAPES.colours), 8, 8),
        "style": torch.tensor([[0.0, 9, 0, 0, 0, 0]]),
        "tone": torch.tensor([[9.0, 0, 0, 0]]),
        "grain": torch.tensor([[0.0, 0, 9]]),
    }
    logits["nouns"][:, 0] = 1.0  # background
    logits["nouns"][:, 1 + SHAPES.nouns.index("boat"), 2:5, 2:5] = 2.0
    logits["colours"][:, 1 + SHAPES.colours.index("pink")] = 1.0
    annotator.network.forward = lambda pictures: logits  # type: ignore[method-assign]
    annotation = annotator.annotate(np.zeros((1, 8, 8, 3), np.uint8))[0]
    assert set(annotation.masks) == {"boat"}
    assert annotation.masks["boat"].sum() == 9
    assert annotation.colours == {"boat": "pink"}
    assert annotation.factors == {"style": "outline", "tone": "night", "grain": "ruled"}


def test_two_objects_of_a_noun_are_two_instances_and_the_ground_is_none(tmp_path):
    save_annotator(SegmentationNetwork(SCENES, (8, 8)), tmp_path)
    annotator = MiniatureAnnotator(tmp_path, minimum_pixels=4)
    assert annotator.labels == (*SCENES.nouns, "sky", "sea", "grass", "sand", "floor", "wall")
    nouns = torch.zeros(1, 1 + len(SCENES.labels), 8, 16)
    nouns[:, 1 + SCENES.labels.index("sky"), :5] = 1.0
    nouns[:, 1 + SCENES.labels.index("sea"), 5:] = 1.0
    nouns[:, 1 + SCENES.labels.index("bird"), 1:3, 1:4] = 2.0  # 6 pixels
    nouns[:, 1 + SCENES.labels.index("bird"), 4:7, 8:12] = 2.0  # 12 pixels
    colours = torch.zeros(1, 1 + len(SCENES.colours), 8, 16)
    colours[:, 1 + SCENES.colours.index("red"), :, :6] = 1.0
    colours[:, 1 + SCENES.colours.index("blue"), :, 6:] = 1.0
    values = {name: torch.zeros(1, len(names)) for name, names in SCENES.factors.items()}
    logits = {"nouns": nouns, "colours": colours} | values
    annotator.network.forward = lambda pictures: logits  # type: ignore[method-assign]
    (annotation,) = annotator.annotate(np.zeros((1, 8, 16, 3), np.uint8))
    found = [(one.noun, one.colour, int(one.mask.sum())) for one in annotation.instances]
    assert found == [("bird", "red", 6), ("bird", "blue", 12)]
    sizes = {noun: int(mask.sum()) for noun, mask in annotation.masks.items()}
    assert sizes == {"bird": 18, "sky": 5 * 16 - 6 - 4, "sea": 3 * 16 - 8}
    assert annotation.colours == {"bird": "blue"}


def test_a_missing_network_is_named_with_the_remedy(tmp_path):
    with pytest.raises(UserError, match=r"no annotator at .*diffusae miniature part=annotator"):
        MiniatureAnnotator(tmp_path)
