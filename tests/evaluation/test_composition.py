from dataclasses import replace

import numpy as np
import pytest
import torch

from diffusae.errors import UserError
from diffusae.evaluation.composition import (
    ConceptSpace,
    Picture,
    Settings,
    build_split,
    concept_cosines,
    evaluate,
    flat_maps,
    predict_scores,
    settings_grid,
    tune,
)
from diffusae.evaluation.result import Estimate

GRID = (1, 4)
# Latent 0 is a cat, latent 1 a dog, latent 2 half of each; latent 3 has no entry.
SPACE = ConceptSpace(
    d_sae=4,
    latents=torch.tensor([0, 1, 2]),
    embeddings=torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]),
    nouns={"cat": torch.tensor([1.0, 0.0]), "dog": torch.tensor([0.0, 1.0])},
    centre=torch.tensor([0.5, 0.5]),
)
HALF = 0.5**0.5


def mask(*columns):
    return np.array([[column in columns for column in range(8)]])


def picture(name, latents, values, nouns=("cat",), **masks):
    return Picture(name, torch.tensor(values), torch.tensor(latents), nouns, masks)


def example():
    latents = [[0, 3], [0, 1], [2, 3], [3, 3]]
    values = [[1.0, 9.0], [3.0, 4.0], [2.0, 1.0], [5.0, 4.0]]
    return picture("a", latents, values, ("cat", "dog"), cat=mask(0, 1), dog=mask(2, 3))


def split_of(*pictures):
    return build_split(pictures, grid=GRID, known_nouns=SPACE.nouns)


def scores(**settings):
    return predict_scores(split_of(example()), SPACE, Settings(**settings))[:, 0].tolist()


def test_scores_by_hand():
    cat, dog = scores(top_n=2)
    # Position 0: a cat. 1: 3 parts cat, 4 parts dog. 2: half-half. 3: no entry.
    assert cat == pytest.approx([1, 0.6, HALF, -1])
    assert dog == pytest.approx([0, 0.8, HALF, -1])


def test_uniform_weighting_counts_all_concepts_alike():
    assert scores(top_n=2, weighting="uniform")[0] == pytest.approx([1, HALF, HALF, -1])


def test_top_n_keeps_the_most_active_labelled_concepts():
    # The strongest at position 0 has no entry and does not count.
    assert scores(top_n=1)[0] == pytest.approx([1, 0, HALF, -1])


def test_centring_removes_what_all_labels_share():
    # Minus (.5, .5): cat and dog are opposite, and the half-half concept has no direction.
    assert scores(top_n=1, centred=True)[0] == pytest.approx([1, -1, 0, -1])


def test_relative_scores_span_the_labelled_positions():
    low, high = HALF, 1.0
    expected = [1, 0, (low - 0.6) / (high - 0.6), 0]
    assert scores(top_n=2, scale="relative")[0] == pytest.approx(expected)


def test_concepts_that_all_say_the_same_give_a_flat_map_and_no_stretched_rounding():
    # Latents 0, 1, 2 all have the mean of three labels of rounded length: cosines differ by 1e-8.
    same = torch.tensor([[0.3, 0.6], [0.1, 0.2], [0.7, 1.4]])
    space = replace(SPACE, embeddings=same)
    split = split_of(example())
    cosines = concept_cosines(split, space, Settings(top_n=2))
    assert flat_maps(cosines).tolist() == [True, True]
    assert predict_scores(split, space, Settings(top_n=2, scale="relative")).unique().tolist() == [
        0
    ]
    assert flat_maps(concept_cosines(split, SPACE, Settings(top_n=2))).tolist() == [False, False]


def test_a_picture_without_any_labelled_concept_has_flat_maps():
    silent = picture("a", [[3]] * 4, [[1.0]] * 4, cat=mask(0))
    assert flat_maps(concept_cosines(split_of(silent), SPACE, Settings())).tolist() == [True]


def test_a_picture_without_any_labelled_concept_scores_lowest_everywhere():
    silent = picture("a", [[3]] * 4, [[1.0]] * 4, cat=mask(0))
    assert predict_scores(split_of(silent), SPACE, Settings()).unique().tolist() == [-1]
    relative = predict_scores(split_of(silent), SPACE, Settings(scale="relative"))
    assert relative.unique().tolist() == [0]


def test_a_dictionary_without_entries_scores_lowest_everywhere():
    # An empty dictionary does not know the length of an embedding.
    nothing = replace(SPACE, latents=torch.zeros(0, dtype=torch.long), embeddings=torch.zeros(0, 0))
    assert predict_scores(split_of(example()), nothing, Settings()).unique().tolist() == [-1]
    relative = predict_scores(split_of(example()), nothing, Settings(scale="relative"))
    assert relative.unique().tolist() == [0]


def test_an_inactive_entry_is_no_concept():
    silent = picture("a", [[0]] * 4, [[0.0]] * 4, cat=mask(0))
    assert predict_scores(split_of(silent), SPACE, Settings()).unique().tolist() == [-1]


def test_pictures_are_scored_alike_alone_and_together():
    other = picture("b", [[1, 0]] * 4, [[1.0, 2.0]] * 4, ("dog",), dog=mask(7))
    together = predict_scores(split_of(example(), other), SPACE, Settings())
    alone = [
        predict_scores(split_of(picture_), SPACE, Settings()) for picture_ in (example(), other)
    ]
    torch.testing.assert_close(together, torch.cat(alone))


def test_nouns_without_mask_or_embedding_are_counted_as_no_data():
    nouns, masks = ("cat", "dog", "ufo", "car", "cat"), {"cat": mask(1), "ufo": mask(2)}
    masks["car"] = np.zeros((1, 8), dtype=bool)
    split = split_of(picture("a", [[0]] * 4, [[1.0]] * 4, nouns, **masks))
    assert (split.nouns, split.n_unannotated, split.n_unembedded) == (["cat"], 2, 1)


def left_cats(n, seed=0):
    """Pictures where the cat latent fires on the cat's half, with noise of the dog latent."""
    generator = torch.Generator().manual_seed(seed)
    pictures = []
    for number in range(n):
        on_left = bool(torch.rand((), generator=generator) < 0.5)
        latents = [[0, 1]] * 2 + [[1, 0]] * 2 if on_left else [[1, 0]] * 2 + [[0, 1]] * 2
        values = (torch.tensor([3.0, 1.0]) + torch.rand(4, 2, generator=generator)).tolist()
        columns = (0, 1, 2, 3) if on_left else (4, 5, 6, 7)
        pictures.append(picture(str(number), latents, values, cat=mask(*columns)))
    return split_of(*pictures)


def test_tuning_finds_a_setting_that_locates_and_evaluation_confirms_it():
    tuned = tune(left_cats(20), SPACE, settings_grid(top_n=(1, 2)))
    assert tuned.threshold.tuning_iou > 0.9
    assert len(tuned.tried) == 16
    assert tuned.threshold.tuning_iou == max(iou for _, iou in tuned.tried)
    chance = Estimate(0.5, None, 10)
    result, rows = evaluate(
        left_cats(10, seed=1), SPACE, tuned, cell={"t": 1.0}, baselines={"chance": chance}
    )
    assert result.value == pytest.approx(np.mean([row.iou for row in rows]))
    assert result.value is not None
    assert result.value > 0.9
    assert (result.estimate.n, result.cell) == (10, {"t": 1.0})
    assert result.baselines == {"chance": chance}
    assert result.details["settings"]["top_n"] == tuned.settings.top_n


def test_every_setting_is_tried_with_its_own_maps():
    # Position 1 is 3 parts cat and 4 parts dog: with one concept a dog, with two also a cat.
    grid = settings_grid(top_n=(1, 2), weighting=("activation",), centred=(False,))
    tuned = tune(split_of(example()), SPACE, grid)
    alone = [tune(split_of(example()), SPACE, [one]).threshold.tuning_iou for one in grid]
    assert [iou for _, iou in tuned.tried] == alone
    assert len(set(alone)) > 1


def test_the_interval_is_over_pictures_not_objects():
    test = split_of(example())
    result, _ = evaluate(test, SPACE, tune(test, SPACE, [Settings()]), cell={}, baselines={})
    assert result.estimate.n == 2
    assert result.estimate.ci95 is None


def test_a_test_split_without_objects_is_no_data():
    test = split_of(replace(example(), masks={}))
    tuned = tune(left_cats(3), SPACE, [Settings()])
    result, rows = evaluate(test, SPACE, tuned, cell={}, baselines={})
    assert (result.value, result.estimate.n, rows) == (None, 0, [])
    assert result.details["n_unannotated"] == 2


@pytest.mark.parametrize("options", [{"top_n": 0}, {"weighting": "both"}, {"scale": "log"}])
def test_unusable_settings_are_refused(options):
    with pytest.raises(UserError):
        Settings(**options)


def test_an_empty_split_or_grid_is_refused():
    with pytest.raises(UserError, match="no pictures"):
        split_of()
    with pytest.raises(UserError, match="at least one"):
        tune(left_cats(3), SPACE, [])
