"""The world of filled scenes: exact masks, patterns without a mean, combinations left out."""

import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusae.miniature.grounds import Edge
from diffusae.miniature.patterns import GRAINS, STYLES, grain_pattern, style_pattern
from diffusae.miniature.pool import labels_of
from diffusae.miniature.scenes import FilledScene, combination_held_out
from diffusae.miniature.world import Thing
from diffusae.miniature.worlds import SCENES

SEEDS = st.integers(0, 10**6)
OBJECT = re.compile(rf"a ({'|'.join(SCENES.colours)}) ({'|'.join(SCENES.nouns)})\b")


def line(height: float, slope: float = 0.0) -> Edge:
    return Edge(height=height, slope=slope, wave=0.0, length=30.0, phase=0.0)


def scene(*things: Thing) -> FilledScene:
    """Sky, sea and sand behind some objects; the sand's edge falls to the right."""
    edges = (line(20), line(32, 0.5))
    return FilledScene(things, "hatched", "night", "brushed", 7, ("sky", "sea", "sand"), edges)


def test_the_parts_of_the_ground_lie_where_their_edges_say():
    masks = SCENES.render(scene()).masks
    # The second line is at 32 + (x + 0.5 - 32) / 2: 16.25, 32.25 and 47.75 in columns 0, 32, 63.
    assert masks["sky"][:, 63].nonzero()[0].tolist() == list(range(20))
    assert masks["sea"][:, 63].nonzero()[0].tolist() == list(range(20, 48))
    assert masks["sand"][:, 32].nonzero()[0].tolist() == list(range(32, 64))
    # At the left the sand begins above the sea and covers it.
    assert masks["sand"][:, 0].nonzero()[0].tolist() == list(range(16, 64))
    assert not masks["sea"][:, 0].any()


def test_objects_cover_the_ground_and_each_has_a_mask_of_its_own():
    left = Thing("heart", "red", 14.0, 40.0, 11.0, 0.0, False)
    right = Thing("heart", "blue", 47.0, 12.0, 9.0, 0.0, False)
    drawn = SCENES.render(scene(left, right))
    first, second = drawn.instances
    assert first[40, 14] and not first[12, 47]
    assert second[12, 47] and not second[40, 14]
    assert first.sum() > 1.3 * second.sum()
    np.testing.assert_array_equal(drawn.masks["heart"], first | second)
    assert not (drawn.masks["sky"] & second).any()
    nouns, colours, factors = labels_of(SCENES, scene(left, right), drawn)
    assert SCENES.labels[nouns[40, 14] - 1] == "heart"
    assert SCENES.labels[nouns[2, 2] - 1] == "sky"
    assert [SCENES.colours[colours[at] - 1] for at in ((40, 14), (12, 47))] == ["red", "blue"]
    assert colours[2, 2] == 0
    assert factors.tolist() == [1, 0, 2]


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from(list(STYLES)), st.sampled_from(GRAINS))
def test_masks_fill_the_frame_once_whatever_style_tone_and_grain(seed, style, grain):
    drawn_scene, _ = SCENES.captioned_scene(seed, held_out=bool(seed % 2))
    before = SCENES.render(drawn_scene)
    after = SCENES.render(replace(drawn_scene, style=style, tone="fog", grain=grain))
    assert np.stack(list(before.masks.values())).sum(axis=0).tolist() == [[1] * 64] * 64
    assert before.masks.keys() == after.masks.keys()
    assert all(np.array_equal(before.masks[noun], after.masks[noun]) for noun in before.masks)
    assert all(mask.sum() >= 40 for mask in before.instances)


def test_no_caption_of_the_training_names_a_left_out_combination():
    seen = set()
    for seed in range(500):
        drawn, text = SCENES.captioned_scene(seed, held_out=False)
        named = OBJECT.findall(text)
        assert len(named) == len(drawn.things)
        style = next(style for style in STYLES if style in text.split())
        seen |= {(noun, colour, style) for colour, noun in named}
    left_out = {
        combination
        for combination in product(SCENES.nouns, SCENES.colours, STYLES)
        if combination_held_out(
            replace(scene(Thing(*combination[:2], 32, 32, 12, 0, False)), style=combination[2])
        )
    }
    assert not seen & left_out
    assert len(left_out) == len(SCENES.nouns) * len(STYLES)  # one colour of six
    trained = set(product(SCENES.nouns, SCENES.colours, STYLES)) - left_out
    for i, j in ((0, 1), (0, 2), (1, 2)):  # every pair of noun, colour and style is trained
        axes = (SCENES.nouns, SCENES.colours, tuple(STYLES))
        assert {(c[i], c[j]) for c in trained} == set(product(axes[i], axes[j]))


def test_held_out_captions_name_a_left_out_combination():
    assert combination_held_out(SCENES.captioned_scene(3, held_out=True)[0])
    red_fish = Thing("fish", "red", 32, 32, 12, 0, False)  # the first noun and the first colour
    assert combination_held_out(replace(scene(red_fish), style="flat"))
    assert not combination_held_out(replace(scene(red_fish), style="hatched"))


def test_captions_name_the_ground_in_most_pictures_and_never_places():
    texts = [SCENES.captioned_scene(seed, held_out=False)[1] for seed in range(200)]
    words = set(" ".join(texts).split())
    assert words <= set(SCENES.vocabulary())
    assert not words & {
        "left",
        "right",
        "top",
        "bottom",
        "above",
        "below",
        "under",
        "over",
        "before",
        "middle",
    }
    named = np.mean([bool(set(SCENES.stuff) & set(text.split())) for text in texts])
    assert 0.55 < named < 0.8


@pytest.mark.parametrize("style", list(STYLES))
def test_a_style_does_not_change_the_mean_brightness(style):
    patterns = np.stack(
        [style_pattern(style, 64, np.random.default_rng(seed)) for seed in range(40)]
    )
    assert patterns.shape[1:] == (64, 64)
    assert abs(patterns.mean()) < 0.06
    assert patterns.std() == pytest.approx(0.0 if style == "flat" else 1.0, abs=0.08)


def test_grain_is_constant_on_two_pixels_and_has_no_mean_in_a_latent():
    for grain in ("speckled", "brushed"):
        pattern = grain_pattern(grain, 64, np.random.default_rng(1))
        assert set(np.unique(pattern)) == {-1.0, 1.0}
        np.testing.assert_array_equal(pattern[::2, ::2], pattern[1::2, 1::2])
    cells = pattern.reshape(16, 4, 16, 4)  # of the brush strokes
    assert np.abs(cells.mean(axis=(1, 3))).max() == 0
    assert not grain_pattern("smooth", 64, np.random.default_rng(1)).any()
