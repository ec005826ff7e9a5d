"""A dictionary whose maps and masks are compared on a pretend device, where mixing raises."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from composing import dictionary_settings
from diffusae.concepts import dictionary as building
from diffusae.concepts.dictionary import ConceptDictionary, Picture, build_dictionary
from sae.pretend_device import ELSEWHERE, TO_DEVICE, TO_HOST, pretend_device

LABELS = ("cat", "dog", "ufo")


class Axes:
    """cat = x, dog = y."""

    name = "axes"

    def known(self, word: str) -> bool:
        return word != "ufo"

    def embed(self, words: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[1.0, 0.0] if word == "cat" else [0.0, 1.0] for word in words])


def pictures(count: int) -> Iterator[Picture]:
    """Pictures of 3 x 4 positions and 6 x 8 pixels, with none to three labels."""
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        values, indices = torch.rand(12, 9, generator=generator).topk(2, dim=1)
        kept = LABELS[: number % 4]
        masks = {label: (torch.rand(6, 8, generator=generator) > 0.6).numpy() for label in kept}
        yield f"{number}", (values - 0.7, indices), masks


def built(count: int, *, resize: str = "map_to_mask", **options: Any) -> ConceptDictionary:
    return build_dictionary(
        pictures(count), dictionary_settings(iou_threshold=0.2, resize=resize),
        d_sae=9, grid=(3, 4), embedding=Axes(), **options,
    )  # fmt: skip


@pytest.mark.parametrize("resize", ["map_to_mask", "mask_to_grid"])
def test_the_dictionary_is_the_same_on_another_device(resize: str) -> None:
    expected = built(10, resize=resize)
    assert len(expected.table) > 9
    with pretend_device():
        found = built(10, resize=resize, device=ELSEWHERE)
    pd.testing.assert_frame_equal(found.table, expected.table)
    pd.testing.assert_frame_equal(found.latents, expected.latents)
    assert torch.equal(found.embeddings, expected.embeddings)


def test_copies_are_made_once_a_batch_of_pictures_however_many_they_are() -> None:
    copies = []
    with pretend_device() as crossed:
        for count in (5, 10, building._PICTURES_AT_ONCE + 1):
            crossed.clear()
            built(count, device=ELSEWHERE)
            copies.append((crossed[TO_DEVICE], crossed[TO_HOST]))
    few, more, second = (np.array(counted) for counted in copies)
    assert (few == more).all()
    # Values, indices and masks go there; a list of counts and four of what was gained return.
    assert (second - more).tolist() == [3, 5]


def test_pictures_at_once_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = built(10)
    monkeypatch.setattr(building, "_PICTURES_AT_ONCE", 1)
    one_by_one = built(10)
    pd.testing.assert_frame_equal(one_by_one.table, whole.table)
    pd.testing.assert_frame_equal(one_by_one.latents, whole.latents)
