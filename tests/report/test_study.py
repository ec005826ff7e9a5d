from typing import Any

import numpy as np
import pytest

from diffusae.errors import UserError
from diffusae.report.study import Concept, Picture, Prediction

IMAGE = np.zeros((4, 6, 3), dtype=np.uint8)
MASK = np.zeros((4, 6), dtype=bool)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 6), np.uint8), np.zeros((4, 6, 3)), np.zeros((3, 4, 6), np.uint8), IMAGE[:0]],
)
def test_pixels_of_another_shape_or_type_are_refused_by_caption(image: Any) -> None:
    with pytest.raises(UserError, match=r"'a cat': pixels must be uint8 \[H, W, 3\], got"):
        Picture("a cat", image)


def test_a_mask_that_is_not_bool_is_refused() -> None:
    with pytest.raises(UserError, match=r"a mask must be bool \[H, W\], got float64 \[4, 6\]"):
        Prediction("x", IMAGE, ["cat"], {"cat": MASK.astype(float)}, {}, {})


def test_a_map_of_a_noun_that_was_not_asked_for_is_named() -> None:
    with pytest.raises(UserError, match="has maps for dog"):
        Prediction("x", IMAGE, ["cat"], {}, {}, {("mid", "cond", 1.0, "dog"): 0.5})


def test_a_heat_map_of_whole_numbers_is_refused_by_latent_and_cell() -> None:
    with pytest.raises(
        UserError,
        match=r"latent 3 of mid-t1.00-cond: a map must be float \[h, w\], got int64 \[2, 2\]",
    ):
        Concept(
            "mid-t1.00-cond",
            "mid",
            1.0,
            "cond",
            3,
            [],
            None,
            None,
            [(IMAGE, np.zeros((2, 2), dtype=np.int64))],
        )
