"""The benchmark of truth on a hand-made world: an oracle is near the best of every metric, permuted
labels near chance, and what cannot be known is no data.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from composing import compose
from diffusae.concepts.settings import DictionarySettings
from diffusae.errors import UserError, together
from diffusae.evaluation.factors import Seen
from diffusae.evaluation.result import Resampling
from diffusae.evaluation.sensitivity import ORACLE
from diffusae.metrics import truth
from diffusae.metrics.audit import AUDITED, NOT_AUDITED, Bench, audits
from diffusae.metrics.evaluate import evaluation_faults
from diffusae.metrics.registry import names
from diffusae.metrics.subjects import Names, Pictures, Subject, Subjects
from diffusae.metrics.truth_rows import TruthSettings, kinds_of, reference_rows, truth_rows
from diffusae.study.study import Study
from labelled_collection import value

GRID, CELL = (4, 4), {"model": "made", "block": "mid", "t": 0.5, "conditioning": "cond"}
COUNTS = {"dictionary": 50, "tune": 30, "test": 40}
WORLD = Names(("fish", "star", "sky"), ("sky",), {"style": ("flat", "neon")})
RESAMPLING: Resampling = {"n_resamples": 60, "seed": 0}
EVALUATION = ["evaluation=truth"]
LATENTS = {"fish": 2, "star": 5, "neon": 7}
"""The planted latents of 9; the others are noise."""


class Words:
    """Every label has a direction of its own."""

    name = "made"

    def known(self, word):
        return word in (*WORLD.labels, "background")

    def embed(self, words):
        known = [*WORLD.labels, "background"]
        return torch.stack([torch.eye(len(known))[known.index(word)] for word in words])


def seen_in(rng: np.random.Generator) -> Seen:
    """A fish or a star in 2 x 2 of 4 x 4 positions before a sky, in one of two styles."""
    noun, colour = ("fish", "star")[int(rng.integers(2))], ("red", "blue")[int(rng.integers(2))]
    row, column = rng.integers(0, 3, 2) * 2
    mask = np.zeros((8, 8), dtype=bool)
    mask[row : row + 4, column : column + 4] = True
    style = ("flat", "neon")[int(rng.integers(2))]
    return Seen({noun: mask, "sky": ~mask}, {noun: colour}, {"style": style})


def coded(seen: Seen, rng: np.random.Generator) -> np.ndarray:
    """[positions, latents]: the planted ones, and noise; fish is at half of its positions."""
    codes = rng.random((16, 9)) * (rng.random((16, 9)) < 0.2) * 0.1
    for noun in ("fish", "star"):
        if noun in seen.masks:
            covered = seen.masks[noun][::2, ::2].reshape(-1)
            fires = covered & (rng.random(16) < 0.5) if noun == "fish" else covered
            codes[fires, LATENTS[noun]] = 1 + rng.random(fires.sum())
    if seen.factors["style"] == "neon":
        codes[:, LATENTS["neon"]] = 1 + rng.random(16)
    return codes


@cache
def subject() -> Subject:
    rng = np.random.default_rng(0)
    pictures = {}
    codes = {}
    for split, count in COUNTS.items():
        seen = [seen_in(rng) for _ in range(count)]
        own = [[noun for noun in one.masks if noun != "sky"] for one in seen]
        pictures[split] = Pictures([f"{split}{n}" for n in range(count)], seen, own)
        values = torch.tensor(np.stack([coded(one, rng) for one in seen])).float()
        codes[split] = values, torch.arange(9).expand(values.shape).clone()
    updates = torch.tensor(rng.normal(size=(COUNTS["test"], 16, 4))).float()
    noisy = updates + 0.5 * torch.tensor(rng.normal(size=updates.shape)).float()
    return Subject(9, GRID, WORLD, codes, pictures, torch.eye(9), (updates, noisy))


@cache
def settings() -> TruthSettings:
    few = "evaluation.audit.composition.settings"
    overrides = [f"{few}.top_n=[1]", f"{few}.weighting=[activation]", f"{few}.scale=[absolute]"]
    return TruthSettings.of(compose("evaluate", [*EVALUATION, "evaluation.ks=[1,2]", *overrides]))


def rows_of(one: Subject, **others):
    made = truth_rows(one, replace(settings(), **others), CELL, RESAMPLING)
    return {row.metric: row for row in made}


def test_planted_latents_are_found_and_scored_on_test_pictures():
    rows = rows_of(subject())
    values = rows["recovery_noun"].details["values"]
    assert {name: of["latent"] for name, of in values.items()} == {"noun fish": 2, "noun star": 5}
    assert values["noun star"]["f1"] > 0.97
    assert values["noun fish"]["f1"] == pytest.approx(2 / 3, abs=0.08), "recall 1/2, precision 1"
    assert rows["recovery_style"].details["values"]["style neon"]["latent"] == 7
    assert rows["recovery_style"].estimate.n == COUNTS["test"]
    assert value(rows["probing_k1"]) < value(rows["probing_k2"]) <= 1


def test_an_oracle_recovers_everything_and_permuted_labels_nothing():
    oracle, chance = rows_of(subject().oracle()), rows_of(subject().permuted(0))
    always = reference_rows(subject(), None, settings(), CELL, RESAMPLING)["always_yes"]
    for name in ("recovery", "recovery_noun", "recovery_stuff", "recovery_colour", "probing_k1"):
        assert value(oracle[name]) > 0.99
        assert value(chance[name]) < value(always[name]) + 0.1
    assert oracle["absorption"].value == 0
    assert chance["absorption"].value is None, "nothing is recovered, so nothing can be absorbed"


def test_a_value_that_few_pictures_show_is_left_out_and_counted():
    few = rows_of(subject(), minimum_pictures=10_000)
    assert few["recovery"].value is None and few["probing_k2"].estimate.n == 0
    assert few["recovery"].details["values_left_out"] == 2 + 1 + 2 + 4 + 1 + 2
    local, whole = kinds_of(subject(), 5)
    # Every picture has a sky and an object somewhere, so that no picture lacks them; but positions
    # do, and they are what is judged.
    assert ("stuff", "sky") in local.labels["test"].columns and whole.left_out == 0


def test_neurons_and_a_dense_probe_read_updates_and_without_them_are_left_out():
    rng = np.random.default_rng(1)
    updates = {
        split: np.stack([coded(one, rng) for one in pictures.seen]) - 0.5
        for split, pictures in subject().pictures.items()
    }
    readers = reference_rows(subject(), updates, settings(), CELL, RESAMPLING)
    assert set(readers) == {"always_yes", "neurons", "dense_probe"}
    assert value(readers["neurons"]["recovery_noun"]) > 0.75
    assert value(readers["dense_probe"]["recovery_style"]) > 0.9
    without = reference_rows(subject(), None, settings(), CELL, RESAMPLING)
    assert set(without) == {"always_yes"}


@cache
def audited():
    cfg = compose("evaluate", EVALUATION)
    bench = Bench(Words, settings().audit, DictionarySettings.of(cfg), CELL, RESAMPLING)
    found = {}
    for audit in audits(WORLD):
        one = subject()
        variants = (one.oracle(audit.oracle), one, one.permuted(0))
        of = [{row.metric: row for row in audit.rows(bench, variant)} for variant in variants]
        found |= {name: [rows[name].value for rows in of] for name in of[0]}
    return found


BEST = {
    "composition": 1, "cohesion": 1, "explained_variance": 1, "accuracy_style_codes": 1,
    "style_entropy": 0, "label_entropy_style": 0, "sigma_label_style": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", BEST)
def test_the_oracle_is_near_the_best_of_every_metric(name):
    oracle, _, _ = audited()[name]
    assert oracle == pytest.approx(BEST[name], abs=0.25 if name == "composition" else 0.05)


@pytest.mark.parametrize("name", [*BEST, "noun_entropy"])
def test_every_metric_puts_the_oracle_first_and_permuted_labels_last(name):
    oracle, trained, permuted = audited()[name]
    sign = 1 if BEST.get(name) == 1 else -1
    assert sign * oracle >= sign * trained > sign * permuted - 1e-9


def test_permuted_labels_are_near_chance():
    found = audited()
    assert found["accuracy_style_codes"][2] == pytest.approx(0.5, abs=0.2)
    assert found["style_entropy"][2] > 0.7 and found["label_entropy_style"][2] > 0.7
    assert found["composition"][2] < found["composition"][0] / 2
    assert found["explained_variance"][2] < 0


def test_permuted_labels_are_always_those_of_another_picture():
    own, other = subject().pictures["test"], subject().permuted(3).pictures["test"]
    assert all(a is not b for a, b in zip(own.seen, other.seen, strict=True))
    assert sorted(map(id, own.seen)) == sorted(map(id, other.seen))
    places = {id(seen): named for seen, named in zip(own.seen, own.named, strict=True)}
    assert all(places[id(s)] == n for s, n in zip(other.seen, other.named, strict=True))


def test_every_metric_is_audited_or_says_why_not():
    assert {*AUDITED, *NOT_AUDITED, "truth"} == set(names())
    assert {audit.metric for audit in audits(WORLD)} == set(AUDITED)
    assert set(settings().audit) == set(AUDITED)


def test_the_whole_benchmark_has_every_subject_beside_every_figure(monkeypatch):
    other = replace(
        subject(),
        codes={split: (2 * v, (i + 1) % 9) for split, (v, i) in subject().codes.items()},
        directions=torch.eye(9).roll(1, 0),
    )
    made = Subjects(subject(), subject().permuted(9), {"seed1": other}, None)
    monkeypatch.setattr(truth, "subjects_of", lambda study, tags: made)
    study = Study(compose("evaluate", EVALUATION))
    rows = truth.benchmark_rows(study, replace(settings(), n_resamples=50), Words)
    by_name = {row.metric: row for row in rows}
    assert by_name["stability_maps"].value == pytest.approx(1), "the same latents in another order"
    assert by_name["stability_directions"].value == pytest.approx(1)
    for row in rows:
        assert row.details["sae"] == study.cfg.sae.tag
        assert ORACLE in row.baselines and "random_weights" in row.baselines
        assert row.estimate.n == 0 or row.details["smallest_difference"] is not None
    assert by_name["recovery"].details["reseed_deviation"] == pytest.approx(0)
    assert by_name["recovery"].details["n_seeds"] == 2
    assert by_name["audit_composition"].details["audited"] == "composition"


def test_every_number_of_a_list_has_its_range():
    with pytest.raises(UserError, match=r"evaluation\.ks=0 must be a whole number from 1"):
        TruthSettings.of(compose("evaluate", [*EVALUATION, "evaluation.ks=[1,0]"]))


def test_wrong_settings_are_refused_before_anything_is_loaded():
    wrong = [*EVALUATION, "evaluation.other_tags=[k10]", "+evaluation.audit.spatial={}"]
    wrong.append("evaluation.audit.cohesion.minimum_items=0")
    with pytest.raises(UserError) as error:
        together(evaluation_faults(Study(compose("evaluate", wrong))))
    assert "is this autoencoder" in str(error.value)
    assert "evaluation.audit.cohesion: evaluation.minimum_items=0" in str(error.value)
    assert "'spatial'" in str(error.value) and "composition" in str(error.value)
