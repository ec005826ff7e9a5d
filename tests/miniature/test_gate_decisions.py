"""The gate's decision times, for models that decide at a known t."""

from typing import Any

import numpy as np
import pytest

from diffusae.miniature.annotator import Annotation, Instance
from diffusae.miniature.gate_decisions import check_decisions, same_layout
from diffusae.miniature.gate_figures import GRAIN, LAYOUT, STYLE, Measure
from diffusae.miniature.worlds import SCENES


class Deciding:
    """A model whose picture is its number: it takes up another caption's style, grain and places
    where this comes before its own times.
    """

    def __init__(self, *, layout: float, style: float, grain: float) -> None:
        self.times = {"layout": layout, "style": style, "grain": grain}
        self.drawn: list[Annotation] = []

    def generate(self, captions, seeds):
        return self.exchanged(captions, seeds, captions, 1.0)

    def exchanged(self, captions, seeds, others, t):
        for caption, seed, other in zip(captions, seeds, others, strict=True):
            self.drawn.append(self._drawn(caption, seed, other, t))
        return np.arange(len(self.drawn) - len(captions), len(self.drawn))

    def annotate(self, pictures):
        return [self.drawn[number] for number in pictures]

    def _drawn(self, caption, seed, other, t):
        shown = {name: other if t >= time else caption for name, time in self.times.items()}
        factors = {
            name: next((w for w in shown[name].split() if w in SCENES.factors[name]), "")
            for name in ("style", "grain")
        }
        nouns = [word for word in shown["layout"].split() if word in SCENES.nouns]
        rng = np.random.default_rng([seed, *map(SCENES.nouns.index, nouns)])
        instances = []
        for noun in [word for word in other.split() if word in SCENES.nouns]:
            y, x = rng.integers(0, 60, size=2)
            mask = np.zeros((64, 64), bool)
            mask[y : y + 4, x : x + 4] = True
            instances.append(Instance(noun, "red", mask))
        return Annotation({}, {}, factors, instances=tuple(instances))


def figures_of(n=40, **times) -> dict[str, Any]:
    model = Deciding(**times)
    made = check_decisions(SCENES, model.generate, model.exchanged, model.annotate, n=n)
    return {figure.name: figure for figure in made}


def test_a_model_that_decides_layout_then_style_then_grain_passes():
    figures = figures_of(layout=0.8, style=0.4, grain=0.1)
    assert [figures[name].value for name in (LAYOUT, STYLE, GRAIN)] == [1.0, 1.0, 1.0]
    assert [figures[name].bound for name in (LAYOUT, STYLE, GRAIN)] == [0.8, 0.8, 0.6]
    assert all(figure.passed and figure.n == 40 for figure in figures.values())
    assert figures[LAYOUT].ci95 == pytest.approx((0.912, 1.0), abs=1e-3)  # Wilson's
    assert figures["layout kept with other nouns throughout"].value < 0.3


@pytest.mark.parametrize(
    ("name", "times"),
    [
        (LAYOUT, {"layout": 0.5, "style": 0.4, "grain": 0.1}),  # objects still move at .7
        (STYLE, {"layout": 0.8, "style": 0.7, "grain": 0.1}),  # too early
        (STYLE, {"layout": 0.8, "style": 0.1, "grain": 0.1}),  # too late
        (GRAIN, {"layout": 0.8, "style": 0.4, "grain": 0.4}),
    ],
)
def test_a_model_that_decides_at_another_time_fails_that_figure_alone(name, times):
    failed = [figure.name for figure in figures_of(**times).values() if not figure.passed]
    assert failed == [name]


def annotation(*centres):
    instances = []
    for y, x in centres:
        mask = np.zeros((64, 64), bool)
        mask[y - 1 : y + 2, x - 1 : x + 2] = True
        instances.append(Instance("fish", "red", mask))
    return Annotation({}, {}, {}, instances=tuple(instances))


def test_a_layout_is_kept_where_every_object_has_one_of_its_own_within_8_pixels():
    own = annotation((20, 20), (20, 30))
    assert same_layout(own, annotation((20, 38), (20, 28)))  # in another order
    assert not same_layout(own, annotation((20, 25)))  # one stands for both
    assert not same_layout(own, annotation((20, 20), (20, 39)))
    assert same_layout(own, annotation((20, 20), (20, 30), (50, 50)))
    assert not same_layout(annotation(), own)


def test_a_figure_without_data_does_not_keep_its_bound_and_one_of_zeros_has_an_interval():
    measure = Measure(SCENES)
    empty = measure.share(GRAIN, [])
    assert (empty.value, empty.n, empty.passed) == (None, 0, False)
    assert measure.mean("autoencoder PSNR (dB)", []).passed is False
    never = measure.mean("false objects, a picture", [0] * 50, at_least=False)
    assert never.passed
    # The exact upper 97.5 % point of a Poisson mean with no event: exp(-50 x) = .025.
    assert never.ci95 == pytest.approx((0.0, 0.0738), abs=1e-4)
