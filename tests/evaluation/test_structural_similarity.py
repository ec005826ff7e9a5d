from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from diffusae.evaluation.structural_similarity import AT_ONCE, structural_similarity
from sae.pretend_device import ELSEWHERE, TO_DEVICE, TO_HOST, pretend_device


def noisy(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 16, 12, 3), dtype=np.uint8)


def test_it_is_one_for_the_same_picture_and_low_for_its_negative():
    assert structural_similarity(noisy(2), noisy(2)).tolist() == pytest.approx([1, 1])
    assert structural_similarity(255 - noisy(1), noisy(1)).item() < 0.1


def test_pairs_of_several_parts_have_the_values_of_single_pairs():
    n = AT_ONCE + 3
    pictures, others = noisy(n), noisy(n, seed=1) // 2 + noisy(n) // 2

    def pair(i: int) -> Any:
        return [
            torch.from_numpy(p[i]).permute(2, 0, 1)[None].float() / 255 for p in (pictures, others)
        ]

    measure: Any = structural_similarity_index_measure
    single = [float(measure(*pair(i), data_range=1.0)) for i in range(n)]
    found = structural_similarity(pictures, others)
    torch.testing.assert_close(found, torch.tensor(single))
    assert found.std() > 0.01


def test_a_part_goes_to_the_device_once_and_comes_back_as_one_number_a_pair():
    with pretend_device() as crossed:
        found = structural_similarity(noisy(AT_ONCE + 1), noisy(AT_ONCE + 1), device=ELSEWHERE)
    assert crossed == {TO_DEVICE: 4, TO_HOST: 2}
    assert found.tolist() == pytest.approx([1] * (AT_ONCE + 1))


def test_no_pictures_have_no_similarity():
    assert structural_similarity(noisy(0), noisy(0)).shape == (0,)
