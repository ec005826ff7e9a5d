"""Composition and its baselines where the objects are: on a pretend device, where mixing raises."""

from __future__ import annotations

import pytest
import torch

from diffusae.evaluation import composition_baselines as baselines
from diffusae.evaluation.composition import (
    ConceptSpace,
    Picture,
    Split,
    build_split,
    predict_scores,
    settings_grid,
    tune,
)
from diffusae.evaluation.linear_probe import linear_probes
from sae.pretend_device import ELSEWHERE, TO_HOST, Elsewhere, pretend_device

GRID, D_SAE, NOUNS = (3, 4), 12, ("cat", "dog")


def split_of(first: int, pictures: int) -> tuple[torch.Tensor, Split]:
    """Updates of 5 entries, and objects of both nouns in random pixels of 6 x 8."""
    drawn, updates = [], []
    for number in range(first, first + pictures):
        generator = torch.Generator().manual_seed(number)
        draw = torch.rand(12, D_SAE, generator=generator)
        values, indices = draw.topk(4, dim=1)
        masks = {noun: torch.rand(6, 8, generator=generator) > 0.6 for noun in NOUNS}
        drawn.append(Picture(f"{number}", values, indices, NOUNS, masks))
        updates.append(torch.randn(12, 5, generator=generator))
    return torch.stack(updates), build_split(drawn, grid=GRID, known_nouns=NOUNS)


def space() -> ConceptSpace:
    generator = torch.Generator().manual_seed(99)
    embeddings = torch.randn(9, 6, generator=generator)
    nouns = {noun: torch.randn(6, generator=generator) for noun in NOUNS}
    return ConceptSpace(D_SAE, torch.arange(1, 10), embeddings, nouns, embeddings.mean(dim=0))


def figures(device: torch.device | str) -> dict[str, object]:
    own = space().to(device)
    (x, fitting), (y, tuning), (z, test) = (
        (updates, split.to(device))
        for updates, split in (split_of(0, 6), split_of(6, 4), split_of(10, 5))
    )
    tuned = tune(tuning, own, settings_grid(top_n=(1, 3)))
    scores = predict_scores(test, own, tuned.settings)
    second = [mask.cpu() for mask in test.masks]
    return {
        "settings": tuned.settings,
        "tried": [iou for _, iou in tuned.tried],
        "scores": scores.cpu(),
        "chance": baselines.chance(test, per_object=2),
        "prior": baselines.centre_prior(tuning, test),
        "disc": baselines.centre_disc(tuning, test),
        "other": baselines.other_picture(scores, test, threshold=tuned.threshold.value),
        "ceiling": baselines.annotator_ceiling(test, [None, *second[1:]]),
        **linear_probes((x, fitting), (y, tuning), (z, test)),
    }


def test_composition_its_baselines_and_the_probes_are_the_same_on_another_device() -> None:
    expected = figures("cpu")
    with pretend_device():
        found = figures(ELSEWHERE)
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert not isinstance(found[name], Elsewhere)
            assert torch.equal(found[name], value), name  # type: ignore[arg-type]
        else:
            assert found[name] == value, name


@pytest.mark.parametrize("top_n", [(1,), (1, 2, 3)])
def test_a_setting_that_is_tried_sends_one_curve_to_the_host(top_n: tuple[int, ...]) -> None:
    _, tuning = split_of(6, 4)
    grid = settings_grid(top_n=top_n)
    with pretend_device() as crossed:
        there, own = tuning.to(ELSEWHERE), space().to(ELSEWHERE)
        crossed.clear()
        tune(there, own, grid)
        assert crossed[TO_HOST] == len(grid)
