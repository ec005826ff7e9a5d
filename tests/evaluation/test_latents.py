"""The table of latents and its summary, on four hand-made latents."""

import math

import pandas as pd
import pytest
import torch

from diffusae.errors import UserError
from diffusae.evaluation.latents import LatentJudging, latent_results, latent_table, stability_of

VOTES = {
    "noun": {"a": ["cat"], "b": ["cat"], "c": ["dog"], "d": ["dog"]},
    "style": {"a": [], "b": [], "c": [], "d": []},
}
JUDGING = LatentJudging(n_top=2, minimum_pictures=2, context_free=0.5, n_draws=20)
CELL = {"model": "m", "block": "mid", "t": 0.5, "conditioning": "cond"}


def table(stability=None) -> pd.DataFrame:
    """A pure latent, a mixed and context-free one, a rare one that would be both, a silent one."""
    statistics = pd.DataFrame(
        {
            "latent": range(4),
            "pictures_active": [3, 4, 1, 0],
            "position_share": [0.1, 0.5, 0.9, math.nan],
            "top_images": [["a", "b", "c"], ["a", "c", "d", "b"], ["a"], []],
        }
    )
    return latent_table(statistics, votes=VOTES, judging=JUDGING, stability=stability)


def rows(given: pd.DataFrame, random_stability=None, shares=(0.0, 0.0, 0.9, 0.9)):
    results = latent_results(
        given,
        votes=VOTES,
        judging=JUDGING,
        shuffled_position_share=shares,
        random_stability=random_stability,
        cell=CELL,
    )
    return {row.metric: row for row in results}


def test_only_top_pictures_count_and_rare_latents_are_not_judged():
    latents = table()
    assert latents["noun_entropy"].tolist()[:2] == [0, 1]
    assert latents["noun_entropy"].isna().tolist() == [False, False, True, True]
    assert latents["context_free"].tolist() == [False, True, False, False]
    assert latents["rare"].tolist() == [False, False, True, True]


def test_the_summary_is_over_judged_latents():
    results = rows(table())
    assert results["noun_entropy"].value == pytest.approx(0.5)
    assert results["context_free_fraction"].value == pytest.approx(0.5)
    assert results["context_free_fraction"].estimate.n == 2
    assert results["context_free_fraction"].baselines["shuffled_positions"].value == 0
    details = results["noun_entropy"].details
    assert (details["n_judged"], details["n_rare"], details["n_silent"]) == (2, 1, 1)


def test_unknown_labels_and_a_missing_seed_are_no_data():
    results = rows(table())
    assert results["style_entropy"].estimate.n == 0
    assert results["stability"].estimate.n == 0
    assert results["stability"].baselines["random_directions"].n == 0


def test_stability_averages_judged_latents_beside_random_directions():
    results = rows(
        table(torch.tensor([0.9, 0.7, -1.0, -1.0])), random_stability=[0.2, 0.4, 1.0, 1.0]
    )
    assert results["stability"].value == pytest.approx(0.8)
    assert results["stability"].baselines["random_directions"].value == pytest.approx(0.3)
    assert results["stability"].higher_is_better


def test_two_seeds_that_agree_are_stable_and_an_sae_is_not_compared_with_itself():
    directions = torch.eye(3, 5)
    own, random = stability_of(directions, directions.flip(0), torch.eye(5)[2:])
    assert own.tolist() == [1, 1, 1]
    assert sorted(random.tolist()) == [0, 0, 1]
    with pytest.raises(UserError, match="name one of another seed"):
        stability_of(directions, directions, directions)


def test_all_wrong_settings_are_reported_together():
    with pytest.raises(UserError) as raised:
        LatentJudging(n_top=0, minimum_pictures=0, context_free=2, n_draws=1)
    for part in ("n_top=0", "minimum_pictures=0", "context_free=2"):
        assert part in str(raised.value)
