"""Methods and forms of interventions, by hand."""

from collections import Counter

import numpy as np
import pytest
import torch

from composing import compose
from diffusae.activations.codes import PictureCodes
from diffusae.concepts.settings import DictionarySettings
from diffusae.errors import UserError
from diffusae.interventions.edits import GlobalPush, SpatialMove
from diffusae.interventions.regions import Region
from diffusae.metrics.directed import spread
from diffusae.metrics.global_intervention import GlobalSettings
from diffusae.metrics.global_intervention import pictures_made as of_global
from diffusae.metrics.spatial_intervention import SpatialSettings, cases_of
from diffusae.metrics.spatial_intervention import pictures_made as of_spatial
from diffusae.prompts.prompt_set import number_prompts
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
from diffusae.steering.global_directions import _Gains
from diffusae.steering.methods import METHODS, draws_met, random_sets

SUM = torch.tensor([3.0, 0.0, 4.0])


def spatial(*overrides: str) -> SpatialSettings:
    return SpatialSettings.of(compose("evaluate", ["evaluation=spatial", *overrides]))


def of_style(*overrides: str) -> GlobalSettings:
    return GlobalSettings.of(compose("evaluate", ["evaluation=global", *overrides]))


def test_the_first_method_is_the_papers_and_its_form_is_the_papers_equation():
    for settings in (spatial(), of_style()):
        assert settings.tried == list(METHODS)
        assert settings.form("concepts").to_json()["deviation"] == "none"
        assert settings.form("random_latent") == settings.form("concepts")
        assert settings.methods["chosen_latents"] == "ours"
    assert spatial().form("neuron").to_json()["deviation"] == (
        "the sum of concept vectors has unit length (the paper adds it as it is);"
        " outside the region minus beta |Z| f (the paper: minus f)"
    )
    assert list(of_style().form("neuron").deviations())[1:] == [
        "beta in lengths of the picture's mean update (the paper: data units)",
        "|Z| over its mean (the paper: over its sum)",
    ]


def test_a_form_makes_the_edit_that_it_says():
    sae = SparseAutoencoder(3, 3, TopK(2), input_scaling="none")
    move = spatial().form("concepts").change(sae, SUM, Region("left"), 2.0)
    assert isinstance(move, SpatialMove)
    assert move.direction.tolist() == [3.0, 0.0, 4.0]  # as it is
    assert move._regions[0][1] == "subtract_once"
    ours = spatial().form("neuron").change(sae, SUM, Region("left"), 2.0)
    assert ours.direction.tolist() == pytest.approx([0.6, 0.0, 0.8])
    assert ours._regions[0][1] == "subtract"
    push = of_style().form("concepts").change(sae, SUM, 5.0)
    assert isinstance(push, GlobalPush)
    assert (push.relative, push.over, push.strength) == (False, "sum", 5.0)
    assert push.direction.tolist() == [3.0, 0.0, 4.0]


def test_strengths_are_of_the_form_or_those_of_all():
    settings = spatial("evaluation.strengths=[2.0,7.0]")
    assert settings.strengths_of("neuron") == (2.0, 7.0)
    assert settings.strengths_of("concepts") == settings.form("concepts").strengths != (2.0, 7.0)


def test_what_is_wrong_with_methods_and_forms_is_said_at_once():
    wrong = [
        "~evaluation.methods.concepts",
        "+evaluation.methods.nueron=ours",
        "evaluation.methods.neuron=our",
        "evaluation.forms.paper.strengths=[0]",
    ]
    with pytest.raises(UserError) as raised:
        spatial(*wrong)
    for part in (
        "evaluation.methods lacks concepts",
        "unknown method in evaluation.methods: 'nueron'",
        "unknown form in evaluation.methods.neuron: 'our'",
        "evaluation.forms.paper.strengths=[0] must hold numbers above 0",
    ):
        assert part in str(raised.value)
    with pytest.raises(UserError, match='outside of a spatialform must be "subtract"'):
        spatial("evaluation.forms.ours.outside=remove")


def test_random_sets_have_the_size_of_the_concept_and_share_nothing_while_there_is_enough():
    sets = random_sets(range(10, 20), 3, 3, np.random.default_rng(0))
    assert [len(one) for one in sets] == [3, 3, 3]
    assert len({latent for one in sets for latent in one}) == 9
    crowded = random_sets([4, 5], 3, 3, np.random.default_rng(0))
    assert [sorted(one) for one in crowded] == [[4, 5]] * 3
    assert [len(one) for one in random_sets(range(5), 0, 2, np.random.default_rng(0))] == [1, 1]


def test_every_draw_meets_every_caption_once_in_regions_by_turns():
    met = [
        (caption, region, draw)
        for caption in range(3)
        for region in range(4)
        for draw in draws_met("test", caption=caption, region=region, regions=4, draws=10)
    ]
    assert Counter((c, d) for c, _, d in met) == dict.fromkeys(
        [(c, d) for c in range(3) for d in range(10)], 1
    )
    assert [region for _, region, draw in met if draw == 1] == [1, 2, 3]
    assert draws_met("test", caption=1, region=0, regions=1, draws=3) == [0, 1, 2]
    tuned = [draws_met("tune", caption=c, region=r, regions=4, draws=10)
             for c in range(3) for r in range(4)]  # fmt: skip
    assert tuned == [[n % 10] for n in range(12)]


def test_an_object_is_moved_where_its_caption_names_nothing_else_and_names_it_once():
    texts = ["a red star with a yellow star", "a red star , sky and sea", "a blue cat at night"]
    prompts = number_prompts([*(("test", text) for text in texts), ("tune", "a red star")])
    cases = cases_of(prompts, "test", ("star", "cat", "sky", "sea"), spatial())
    assert {(case.prompt.text, case.noun) for case in cases} == {("a blue cat at night", "cat")}
    assert [case.region for case in cases] == list(spatial().regions)


def test_draws_are_told_by_their_means():
    told = spread([1.0, 0.0, 1.0, 1.0], [0, 0, 1, 1])
    assert told == {"n": 2, "mean": 0.75, "low": 0.5125, "high": 0.9875, "max": 1.0}
    assert spread([], []) == {}


def test_latents_gain_a_style_by_the_objects_mask_and_a_tone_by_the_whole_picture():
    """A row of six positions, objects on the first three: latent 0 covers two of them, latent 1 all
    six (an IoU of 1/2 with the objects is not above 1/2), latent 2 the last one.
    """
    values = np.array([[1, 1], [1, 1], [1, 0], [1, 0], [1, 0], [1, 1]], np.float32)
    indices = np.array([[1, 0], [1, 0], [1, 0], [1, 0], [1, 0], [1, 2]])
    codes = PictureCodes.of(values, indices, d_sae=3, dtype=np.dtype(np.float32))
    settings = DictionarySettings.of(compose("evaluate"))
    gains = _Gains(settings, (1, 6), ["style"])
    objects = [np.array([[1, 1, 0, 0, 0, 0]], bool), np.array([[0, 0, 1, 0, 0, 0]], bool)]
    gains.add(codes, objects, {"style": "neon", "tone": "night"})
    gains.add(codes, [], {"style": "flat", "tone": "fog"})
    assert gains.concepts("style", "neon") == [0]
    assert gains.concepts("tone", "night") == [1]
    assert gains.concepts("style", "flat") == gains.concepts("tone", "fog") == []


def test_the_pictures_of_a_cell_are_counted():
    """2 + 3 unedited; four methods at 2 strengths, two at 3 or 4; 10 draws meet each test caption
    once.
    """
    counts = ["evaluation.tune_prompts=2", "evaluation.test_prompts=3"]
    assert of_spatial(spatial(*counts)) == 5 + 2 * 4 * (4 * 2 + 2 * 3) + 3 * (5 * 4 + 10)
    one = of_style(*counts, "evaluation.factors=[tone]")
    assert of_global(one) == 5 + 2 * (4 * 2 + 2 * 4) + 3 * (5 + 10)
