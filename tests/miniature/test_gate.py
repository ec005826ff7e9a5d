"""The gate's figures, for models of known quality."""

from typing import Any

import numpy as np
import pytest

from diffusae.miniature.annotator import Annotation, Instance
from diffusae.miniature.gate import (
    GateFigure,
    check_annotator,
    check_autoencoder,
    check_generation,
    check_layouts,
    matched,
)
from diffusae.miniature.world import Scene, Thing
from diffusae.miniature.worlds import SCENES, SHAPES


def figures_by_name(figures) -> dict[str, Any]:
    return {figure.name: figure for figure in figures}


class Oracle:
    """Draws the exact scene of a caption and annotates it without error."""

    def __init__(self, world=SHAPES):
        self.world, self.truth = world, {}

    def remember(self, scene):
        drawn = self.world.render(scene)
        factors = {"style": scene.style, "tone": scene.tone, "grain": scene.grain}
        colours = {thing.noun: thing.colour for thing in scene.things}
        instances = tuple(
            Instance(thing.noun, thing.colour, mask)
            for thing, mask in zip(scene.things, drawn.instances, strict=True)
        )
        self.truth[drawn.picture.tobytes()] = Annotation(
            drawn.masks, colours, factors, instances=instances
        )
        return drawn.picture

    def annotate(self, pictures):
        return [self.truth[picture.tobytes()] for picture in pictures]


def test_a_perfect_autoencoder_passes_and_a_tinted_one_fails():
    def tinted(pictures):
        return pictures[..., ::-1]

    bad = figures_by_name(check_autoencoder(SHAPES, tinted, n=10))
    assert not bad["autoencoder PSNR (dB)"].passed
    assert not bad["autoencoder hue shift (degrees)"].passed
    noise = np.random.default_rng(0)

    def nearly(pictures):
        return np.clip(pictures + noise.integers(-2, 3, pictures.shape), 0, 255).astype(np.uint8)

    good = figures_by_name(check_autoencoder(SHAPES, nearly, n=10))
    assert good["autoencoder PSNR (dB)"].value == pytest.approx(10 * np.log10(255**2 / 2), abs=0.6)
    assert all(figure.passed for figure in good.values())


class Noiseless(Oracle):
    """Knows a noisy picture by its nearest drawn one."""

    def annotate(self, pictures):
        drawn = {key: np.frombuffer(key, np.uint8).astype(float) for key in self.truth}
        return [
            self.truth[min(drawn, key=lambda key: np.abs(drawn[key] - picture.ravel()).sum())]
            for picture in pictures
        ]


@pytest.mark.parametrize("world", [SHAPES, SCENES], ids=lambda world: world.name)
def test_a_perfect_annotator_passes_with_ones(world):
    oracle = Noiseless(world)
    for seed in range(12):
        oracle.remember(world.captioned_scene(seed, held_out=True)[0])
    figures = check_annotator(world, oracle.annotate, lambda pictures: pictures, n=12)
    values = {figure.name: figure.value for figure in figures}
    assert values["annotator mean IoU, renders"] == 1.0
    assert values["annotator style right, renders"] == 1.0
    assert ("annotator mean IoU of the ground, renders" in values) == bool(world.stuff)
    assert {value for name, value in values.items() if "false" not in name} == {1.0}
    assert all(figure.passed for figure in figures)


def test_every_object_is_matched_with_an_instance_of_its_own_the_right_colour_first():
    place = (20.0, 20.0, 12.0, 0.0, False)
    things = (Thing("fish", "red", *place), Thing("fish", "blue", *place))
    scene = Scene((*things, Thing("cup", "pink", *place)), "flat", "day", "smooth", 0)
    small, large = np.eye(4, dtype=bool), np.ones((4, 4), bool)
    red, green = Instance("fish", "red", small), Instance("fish", "green", large)
    annotation = Annotation({}, {}, {}, instances=(green, red, Instance("star", "red", large)))
    assert matched(annotation, scene) == [red, green, None]


@pytest.mark.parametrize("world", [SHAPES, SCENES], ids=lambda world: world.name)
def test_a_perfect_generator_passes_and_one_that_draws_other_scenes_fails(world):
    oracle = Oracle(world)
    drawn = [world.captioned_scene(10_000 + i, held_out=True) for i in range(20)]
    scenes = {text: scene for scene, text in drawn}

    def obeys(captions, seeds):
        return np.stack([oracle.remember(scenes[text]) for text in captions])

    figures, pictures = check_generation(world, obeys, oracle.annotate, n=20)
    assert len(pictures) == 20
    assert all(figure.passed for figure in figures)
    assert figures_by_name(figures)["found in the named colour"].value == 1.0

    def ignores(captions, seeds):
        others = [world.captioned_scene(int(seed), held_out=False)[0] for seed in seeds]
        return np.stack([oracle.remember(scene) for scene in others])

    figures, _ = check_generation(world, ignores, oracle.annotate, n=20)
    by_name = figures_by_name(figures)
    assert not by_name["named objects found"].passed
    assert by_name["objects not asked for, a picture"].value > 0.5
    assert by_name["false objects, a picture"].value > 0.5
    assert by_name["found objects that were asked for (precision)"].value < 0.7


def test_a_generator_that_repeats_its_layout_fails():
    oracle = Oracle()

    def repeats(captions, seeds):
        places = {text: i for i, text in enumerate(dict.fromkeys(captions))}
        scenes = [SHAPES.captioned_scene(places[text], held_out=True)[0] for text in captions]
        return np.stack([oracle.remember(scene) for scene in scenes])

    figures = check_layouts(SHAPES, repeats, oracle.annotate, captions=3, seeds=3)
    assert figures[0].value == 1.0
    assert not figures[0].passed

    def varies(captions, seeds):
        pairs = enumerate(zip(captions, seeds, strict=True))
        return np.stack(
            [oracle.remember(SHAPES.captioned_scene(i, held_out=True)[0]) for i, _ in pairs]
        )

    assert check_layouts(SHAPES, varies, oracle.annotate, captions=4, seeds=12)[0].passed


def test_a_figure_passes_on_its_own_side_of_the_bound():
    assert GateFigure("a", 0.9, (0.8, 1.0), 10, bound=0.9).passed
    assert not GateFigure("a", 0.89, (0.8, 1.0), 10, bound=0.9).passed
    assert GateFigure("a", 5.0, (4.0, 6.0), 10, bound=10.0, at_least=False).passed
    assert GateFigure("without a bound", 0.0, (0.0, 0.0), 10).passed
