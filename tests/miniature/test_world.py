import hashlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from diffusae.miniature.captions import caption, is_held_out
from diffusae.miniature.shapes import NOUNS, placed_distance, signed_distance_template
from diffusae.miniature.styles import COLOURS, GRAINS, STYLES, TONES, add_grain
from diffusae.miniature.world import SIZE, Scene, render, sample_scene
from diffusae.miniature.worlds import SHAPES

SEEDS = st.integers(0, 10**6)
captioned_scene = SHAPES.captioned_scene


def with_factors(scene: Scene, style: str, tone: str, grain: str) -> Scene:
    return Scene(scene.things, style, tone, grain, scene.seed)


def test_the_world_has_enough_of_everything():
    assert len(SHAPES.nouns) >= 12
    assert len(COLOURS) >= 6
    assert len(STYLES) >= 6
    assert len(TONES) >= 3
    assert len(GRAINS) >= 3


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_a_seed_fixes_caption_picture_and_masks(seed):
    first, second = captioned_scene(seed, held_out=False), captioned_scene(seed, held_out=False)
    assert first == second
    one, other = render(first[0]), render(second[0])
    np.testing.assert_array_equal(one.picture, other.picture)
    assert all(np.array_equal(one.masks[noun], other.masks[noun]) for noun in one.masks)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from(list(STYLES)), st.sampled_from(list(TONES)), st.sampled_from(GRAINS))
def test_style_tone_and_grain_never_move_an_object(seed, style, tone, grain):
    scene = sample_scene(np.random.default_rng(seed))
    before, after = render(scene), render(with_factors(scene, style, tone, grain))
    assert before.masks.keys() == after.masks.keys()
    assert all(np.array_equal(before.masks[noun], after.masks[noun]) for noun in before.masks)


@settings(max_examples=30, deadline=None)
@given(SEEDS)
@example(74308)  # a fish whose turned fin just reaches the border's pixels
def test_objects_are_inside_apart_and_visible(seed):
    scene = sample_scene(np.random.default_rng(seed))
    masks = list(render(scene).masks.values())
    assert len(masks) == len(scene.things)
    assert np.stack(masks).sum(axis=0).max() == 1
    assert all(mask.sum() >= 60 for mask in masks)
    around = 8  # on a larger canvas, nothing is drawn outside the picture
    for thing in scene.things:
        distance = placed_distance(
            thing.noun,
            size=SIZE + 2 * around,
            centre=(thing.x + around, thing.y + around),
            radius=thing.radius,
            angle=thing.angle,
            mirrored=thing.mirrored,
        )
        drawn = distance < 0
        assert drawn.sum() == drawn[around:-around, around:-around].sum()


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_a_held_out_caption_is_a_new_wording_of_a_combination_that_is_trained_on(seed):
    scene, text = captioned_scene(seed, held_out=True)
    wordings = {caption(scene, np.random.default_rng(n)) for n in range(40)}
    assert is_held_out(text)
    assert any(not is_held_out(other) for other in wordings)


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.booleans())
def test_captions_name_every_object_colour_and_style_and_no_place(seed, held_out):
    scene, text = captioned_scene(seed, held_out=held_out)
    assert is_held_out(text) == held_out
    assert all(f"a {thing.colour} {thing.noun}" in text for thing in scene.things)
    assert scene.style in text.split()
    places = "left right top bottom above below under over middle centre corner next"
    assert not set(places.split()) & set(text.split())
    assert set(text.split()) <= set(SHAPES.vocabulary())


def test_the_scenes_of_a_seed_are_those_that_studies_were_made_of():
    drawn = repr([captioned_scene(seed, held_out=False) for seed in range(200)])
    assert hashlib.sha256(drawn.encode()).hexdigest()[:16] == "893fc0c7760126cd"


def test_about_a_tenth_of_the_captions_is_held_out():
    share = np.mean([is_held_out(f"caption {i}") for i in range(4000)])
    assert 0.08 < share < 0.12


def test_captions_leave_tone_and_grain_sometimes_unnamed():
    texts = [captioned_scene(seed, held_out=False)[1] for seed in range(200)]
    for phrase in ("at night", "on paper", "texture"):
        share = np.mean([phrase in text for text in texts])
        assert 0.05 < share < 0.6


def test_signed_distance_is_negative_inside_and_grows_a_pixel_a_pixel():
    place = {"size": SIZE, "centre": (32, 32), "radius": 16}
    field = placed_distance("heart", **place, angle=0.0, mirrored=False)
    assert field[32, 32] < -4
    assert field[0, 0] > 10
    slope = np.abs(np.diff(field[:8, 0]))
    assert slope.max() < 1.2


@pytest.mark.parametrize("noun", NOUNS)
def test_silhouettes_fill_their_square(noun):
    inside = signed_distance_template(noun) < 0
    places = np.stack(np.nonzero(inside)) / 64 - 2
    assert np.abs(places).max() <= 1.05
    assert 0.15 < inside.mean() * 4 < 0.9


def test_silhouettes_are_distinct():
    inside = {noun: (signed_distance_template(noun) < 0).ravel() for noun in NOUNS}
    pairs = [
        (inside[a] & inside[b]).sum() / (inside[a] | inside[b]).sum()
        for a in NOUNS
        for b in NOUNS
        if a < b
    ]
    assert max(pairs) < 0.8


def test_a_mirrored_and_turned_object_is_the_same_object():
    place = {"size": SIZE, "centre": (32, 32), "radius": 14}
    plain = placed_distance("boat", **place, angle=0.3, mirrored=False)
    mirrored = placed_distance("boat", **place, angle=-0.3, mirrored=True)
    assert (plain[:, ::-1] < 0).sum() == pytest.approx((mirrored < 0).sum(), rel=0.03)
    assert np.mean((plain[:, ::-1] < 0) == (mirrored < 0)) > 0.99


def test_grain_adds_a_pattern_of_mean_zero_and_period_four():
    flat = np.full((SIZE, SIZE, 3), 0.5, np.float32)
    for grain in ("canvas", "ruled"):
        pattern = add_grain(flat, grain) - flat
        assert abs(pattern.mean()) < 1e-6
        np.testing.assert_allclose(pattern[:-4], pattern[4:], atol=1e-6)
        assert pattern.std() > 0.02
    np.testing.assert_array_equal(add_grain(flat, "smooth"), flat)


def test_styles_differ_within_objects_far_more_than_outside():
    scene = with_factors(sample_scene(np.random.default_rng(5)), "flat", "fog", "smooth")
    inside = np.any(list(render(scene).masks.values()), axis=0)
    flat = render(scene).picture.astype(float)
    for style in set(STYLES) - {"flat"}:
        drawn = render(with_factors(scene, style, "fog", "smooth")).picture
        changed = np.abs(drawn - flat).mean(axis=2)
        assert changed[inside].mean() > 4 * changed[~inside].mean()
