"""Verdicts on claims: true effects, no effects and equivalences in simulated studies."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from diffusae.evaluation import case_tests
from diffusae.evaluation.case_tests import Differences
from diffusae.evaluation.claims import (
    Claim,
    ClaimCell,
    Compared,
    Other,
    Registration,
    judged,
    registration_faults,
)

CELL = ClaimCell("mid", 0.5, "cond")


def claim(expects: Any = "more", **others: Any) -> Claim:
    given: dict[str, Any] = {
        "sentence": "it is so",
        "metric": "composition",
        "column": "iou",
        "cell": CELL,
        "against": {"control": Other(column="noun_probe")},
        "margin": 0.1,
        "test": "sign_flip",
    }
    return Claim(expects=expects, **{**given, **others})


def registered(claims: Mapping[str, Claim], **others: Any) -> Registration:
    given: dict[str, Any] = {"alpha": 0.05, "power": 0.8, "seed": 7, "captions": 60}
    given |= {"least_captions": 50, **others}
    return Registration("made", "nobody", stated=claims, **given)


def seen(mean: float, spread: float = 0.2, n: int = 80, *, seed: int = 0) -> Compared:
    """A study's differences with exactly this mean."""
    values = np.random.default_rng(seed).normal(0, spread, n)
    return {"control": differences(values - values.mean() + mean)}


def differences(values: Any, **others: Any) -> Differences:
    given: dict[str, Any] = {"span": (-1.0, 1.0), "cases": 3 * len(values), "test": "sign_flip"}
    return Differences(np.asarray(values, float), None, **{**given, **others})


@pytest.mark.parametrize(
    ("expects", "mean", "state"),
    [
        ("more", 0.2, "holds"),
        ("more", -0.2, "fails"),  # the opposite
        ("more", 0.0, "fails"),  # nothing that counts
        ("more", 0.06, "holds"),  # there, and smaller than what counts
        ("less", -0.2, "holds"),
        ("less", 0.2, "fails"),
        ("less", 0.0, "fails"),
        ("no_more", 0.0, "holds"),
        ("no_more", -0.3, "holds"),
        ("no_more", 0.2, "fails"),
        ("alike", 0.0, "holds"),
        ("alike", 0.2, "fails"),
        ("alike", -0.2, "fails"),
    ],
)
def test_a_true_effect_none_and_an_equivalence_get_their_verdicts(expects, mean, state):
    (verdict,) = judged(registered({"one": claim(expects)}), {"one": seen(mean)})
    assert (verdict.state, verdict.pictures_needed) == (state, None)
    assert verdict.effect == pytest.approx(mean)
    assert verdict.ci95 is not None and verdict.ci95[0] < mean < verdict.ci95[1]
    assert (verdict.baseline, verdict.pictures, verdict.cases) == ("control", 80, 240)


@pytest.mark.parametrize("expects", ["more", "less", "no_more", "alike"])
def test_few_scattered_pictures_decide_nothing_and_say_how_many_would(expects):
    mean = {"less": -0.05}.get(expects, 0.05)
    (verdict,) = judged(registered({"one": claim(expects)}), {"one": seen(mean, spread=0.5, n=30)})
    assert verdict.state == "undecided"
    # Both gaps are .05: ((1.645 + .842) * s / .05)^2 with the spread that was seen.
    spread = float(seen(mean, spread=0.5, n=30)["control"].own.std(ddof=1))
    assert verdict.pictures_needed == math.ceil(((1.6449 + 0.8416) * spread / 0.05) ** 2)
    assert f"about {verdict.pictures_needed} pictures" in verdict.text


def test_against_several_controls_the_hardest_decides():
    strong, weak = seen(0.3)["control"], seen(0.0, 0.5, 30)["control"]
    none = seen(0.0, 0.1)["control"]
    both = claim(against={"a": Other(value=0.1), "b": Other(value=0.2)})
    one = registered({"one": both})
    for compared, state, baseline in (
        ({"a": strong, "b": strong}, "holds", "a"),
        ({"a": strong, "b": weak}, "undecided", "b"),
        ({"a": none, "b": strong}, "fails", "a"),
    ):
        (verdict,) = judged(one, {"one": compared})
        assert (verdict.state, verdict.baseline) == (state, baseline)


def test_all_claims_count_in_holms_correction_also_those_without_data():
    claims = {name: claim() for name in "abcd"}
    found = {"a": seen(0.3), "b": seen(0.06, 0.2, 60), "c": "no dictionary"}
    verdicts = {v.name: v for v in judged(registered(claims), found)}
    assert list(verdicts) == list("abcd")
    assert verdicts["a"].p_adjusted == pytest.approx(4 * verdicts["a"].p)
    assert verdicts["b"].p_adjusted == pytest.approx(3 * verdicts["b"].p)
    assert (verdicts["c"].state, verdicts["c"].note) == ("not evaluated", "no dictionary")
    assert (verdicts["d"].state, verdicts["d"].p_adjusted) == ("not evaluated", 1.0)
    alone = judged(registered({"b": claim()}), {"b": found["b"]})[0]
    assert alone.state == "holds"
    assert verdicts["b"].state == "undecided" or verdicts["b"].p_adjusted <= 0.05


def test_edits_of_too_few_captions_decide_nothing():
    edited = claim(metric="spatial", column="success")
    few, enough = seen(0.9, 0.1, 49), seen(0.9, 0.1, 50)
    assert judged(registered({"e": edited}), {"e": enough})[0].state == "holds"
    (verdict,) = judged(registered({"e": edited}), {"e": few})
    assert (verdict.state, verdict.pictures_needed) == ("undecided", 50)
    assert verdict.note == "49 of at least 50 captions"


def test_an_edit_that_never_changed_anything_is_shown_to_do_nothing_by_enough_pictures():
    cannot = claim("no_more", metric="spatial", column="success")
    for n, state in ((50, "holds"), (20, "undecided")):
        compared = {"control": differences(np.zeros(n), span=(0.0, 1.0))}
        one = registered({"fixed": cannot}, least_captions=1)
        (verdict,) = judged(one, {"fixed": compared})
        assert verdict.state == state
    assert verdict.pictures_needed == 29  # .9^29 = .047


def test_in_fewer_than_alpha_of_studies_any_claim_is_wrongly_said_to_hold(monkeypatch):
    """Ten claims a study, all of them wrong by nothing: half claim an effect where there is none,
    half that there is none where it is exactly the margin. Without a correction two in five studies
    would err.
    """
    monkeypatch.setattr(case_tests, "DRAWS", 1000)
    monkeypatch.setattr(case_tests, "_AT_ONCE", 500)
    rng, wrong, uncorrected, n = np.random.default_rng(5), 0, 0, 30
    claims = {f"{expects}{k}": claim(expects) for k in range(5) for expects in ("more", "no_more")}
    for _ in range(n):
        found = {
            name: {
                "control": differences(
                    rng.choice([-1, 0, 1], 60, p=[0.2, 0.6, 0.2] if one.expects == "more"
                               else [0.15, 0.6, 0.25])
                )
            }
            for name, one in claims.items()
        }  # fmt: skip
        verdicts = judged(registered(claims), found)
        wrong += any(verdict.state == "holds" for verdict in verdicts)
        uncorrected += any(verdict.p <= 0.05 for verdict in verdicts)
    assert uncorrected > 0.2 * n
    assert wrong <= 4  # 2 are expected at most


def test_faults_of_a_registration_are_named_together():
    claims = {
        "a": claim(metric="compositions"),
        "b": claim(column="ious", against={}),
        "c": claim(cell=ClaimCell("middle", 0.5, "cond"), margin=0.0),
        "d": claim(test="mcnemar"),
        "e": claim(metric="cohesion", column="cohesion"),
        "f": claim(against={"x": Other(cell=ClaimCell("up", 0.1, "cond"), column="probe")}),
    }
    faults = registration_faults(registered(claims, alpha=2.0), ["mid-t0.50-cond"])
    text = "\n".join(faults)
    for part in (
        "claims.alpha=2.0",
        "claims.stated.a: unknown metric of a claim 'compositions'; known: cohesion, composition,",
        "Did you mean 'composition'? Metrics of plug-ins cannot be claimed.",
        "claims.stated.b: unknown column of composition 'ious'",
        "claims.stated.b: against is empty",
        "claims.stated.c: unknown cell of the grid 'middle-t0.50-cond'; known: mid-t0.50-cond",
        "claims.stated.c: margin=0.0",
        "claims.stated.d: test=mcnemar is for one case a picture",
        "claims.stated.e: test=sign_flip: the cases of cohesion need permutation",
        "claims.stated.e: unknown column of cohesion 'noun_probe'",
        "claims.stated.f: unknown cell of the grid 'up-t0.10-cond'",
        "claims.stated.f: unknown column of composition 'probe'",
    ):
        assert part in text
    assert len(faults) == 11
    assert registration_faults(registered({"one": claim()}), ["mid-t0.50-cond"]) == []
