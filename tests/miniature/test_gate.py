"""The gate's figures, for models of known quality."""

import numpy as np
import pytest

from diffusae.miniature.annotator import Annotation
from diffusae.miniature.captions import captioned_scene
from diffusae.miniature.gate import (
    GateFigure,
    check_annotator,
    check_autoencoder,
    check_generation,
    check_layouts,
)
from diffusae.miniature.world import render


def figures_by_name(figures):
    return {figure.name: figure for figure in figures}


class Oracle:
    """Draws the exact scene of a caption and annotates it without error."""

    def __init__(self):
        self.truth = {}

    def remember(self, scene):
        drawn = render(scene)
        factors = {"style": scene.style, "tone": scene.tone, "grain": scene.grain}
        colours = {thing.noun: thing.colour for thing in scene.things}
        self.truth[drawn.picture.tobytes()] = Annotation(drawn.masks, colours, factors)
        return drawn.picture

    def annotate(self, pictures):
        return [self.truth[picture.tobytes()] for picture in pictures]


def test_a_perfect_autoencoder_passes_and_a_tinted_one_fails():
    def tinted(pictures):
        return pictures[..., ::-1]

    bad = figures_by_name(check_autoencoder(tinted, n=10))
    assert not bad["autoencoder PSNR (dB)"].passed
    assert not bad["autoencoder hue shift (degrees)"].passed
    noise = np.random.default_rng(0)

    def nearly(pictures):
        return np.clip(pictures + noise.integers(-2, 3, pictures.shape), 0, 255).astype(np.uint8)

    good = figures_by_name(check_autoencoder(nearly, n=10))
    assert good["autoencoder PSNR (dB)"].value == pytest.approx(10 * np.log10(255**2 / 2), abs=0.6)
    assert all(figure.passed for figure in good.values())


def test_a_perfect_annotator_passes_with_ones():
    oracle = Oracle()
    for seed in range(12):
        oracle.remember(captioned_scene(seed, held_out=True)[0])
    figures = figures_by_name(check_annotator(oracle.annotate, lambda pictures: pictures, n=12))
    assert figures["annotator mean IoU, renders"].value == 1.0
    assert figures["annotator style right, renders"].value == 1.0


def test_a_perfect_generator_passes_and_one_that_draws_other_scenes_fails():
    oracle = Oracle()
    drawn = [captioned_scene(10_000 + i, held_out=True) for i in range(20)]
    scenes = {text: scene for scene, text in drawn}

    def obeys(captions, seeds):
        return np.stack([oracle.remember(scenes[text]) for text in captions])

    figures, pictures = check_generation(obeys, oracle.annotate, n=20)
    assert len(pictures) == 20
    assert all(figure.passed for figure in figures)
    assert figures_by_name(figures)["found in the named colour"].value == 1.0

    def ignores(captions, seeds):
        others = [captioned_scene(int(seed), held_out=False)[0] for seed in seeds]
        return np.stack([oracle.remember(scene) for scene in others])

    figures, _ = check_generation(ignores, oracle.annotate, n=20)
    by_name = figures_by_name(figures)
    assert not by_name["named objects found"].passed
    assert by_name["objects not asked for, a picture"].value > 0.5


def test_a_generator_that_repeats_its_layout_fails():
    oracle = Oracle()

    def repeats(captions, seeds):
        places = {text: i for i, text in enumerate(dict.fromkeys(captions))}
        scenes = [captioned_scene(places[text], held_out=True)[0] for text in captions]
        return np.stack([oracle.remember(scene) for scene in scenes])

    figures = check_layouts(repeats, oracle.annotate, captions=3, seeds=3)
    assert figures[0].value == 1.0
    assert not figures[0].passed

    def varies(captions, seeds):
        pairs = enumerate(zip(captions, seeds, strict=True))
        return np.stack([oracle.remember(captioned_scene(i, held_out=True)[0]) for i, _ in pairs])

    assert check_layouts(varies, oracle.annotate, captions=4, seeds=12)[0].passed


def test_a_figure_passes_on_its_own_side_of_the_bound():
    assert GateFigure("a", 0.9, (0.8, 1.0), 10, bound=0.9).passed
    assert not GateFigure("a", 0.89, (0.8, 1.0), 10, bound=0.9).passed
    assert GateFigure("a", 5.0, (4.0, 6.0), 10, bound=10.0, at_least=False).passed
    assert GateFigure("without a bound", 0.0, (0.0, 0.0), 10).passed
