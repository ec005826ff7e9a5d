"""Claims: registered, judged on fresh pictures, and changed afterwards."""

import copy
import json
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from omegaconf import DictConfig, open_dict

import command
from composing import compose
from diffusae.errors import UserError
from diffusae.files import write_sealed
from diffusae.runs.record import RECORD, read_record
from diffusae.study.study import Study
from diffusae.summaries.claims import claims_markdown, judgement_of, summarise_claims
from diffusae.summaries.registration import Registered
from exploring.tiny_study import place_study
from stages.evaluated_interventions import place_spatial

DOWN = {"block": "down", "t": 1.0, "conditioning": "cond"}
MOVED = {
    "sentence": "An object can be moved",
    "metric": "spatial",
    "column": "success",
    "cell": DOWN,
    "window": "early",
    "select": {"method": "concepts"},
    "against": {"no_edit": {"select": {"method": "no_edit"}}, "chance": {"value": 0.25}},
    "expects": "more",
    "margin": 0.1,
    "test": "sign_flip",
}
FIXED = {**MOVED, "sentence": "An object cannot be moved", "expects": "no_more"}
COUNTS = "prompts.counts={train: 4, validation: 2, dictionary: 3, tune: 2, test: 5}"


@cache
def composed() -> DictConfig:
    return compose("report", ["name=made", COUNTS])


def registered(outputs: Path, stated: Any = None, **changes: Any) -> Registered:
    cfg = copy.deepcopy(composed())
    with open_dict(cfg):
        cfg.paths.outputs = str(outputs)
        cfg.claims = {
            "name": "own",
            "source": "us",
            "alpha": 0.05,
            "power": 0.8,
            "seed": 1000,
            "captions": 6,
            "least_captions": 5,
            "stated": stated or {"moved": MOVED, "fixed": FIXED},
            **changes,
        }
    return Registered.of(Study(cfg))


def place(one: Registered, *, concepts: float, no_edit: float = 0.0) -> Path:
    """Eight captions, four regions each."""
    outcomes = {"concepts": [concepts] * 32, "no_edit": [no_edit] * 32}
    return place_spatial(one.fresh, outcomes, t=1.0, tag=one.study.cfg.sae.tag, examples=False)


def test_the_fresh_pictures_have_captions_and_noise_that_the_study_never_had(tmp_path):
    one = registered(tmp_path)
    assert one.register()
    assert not one.register()  # it is there
    fresh, own = one.fresh, one.study
    splits = [prompt.split for prompt in fresh.prompts]
    assert [splits.count(name) for name in ("dictionary", "tune", "test")] == [3, 2, 6]
    texts = [prompt.text for prompt in fresh.prompts]
    assert len(set(texts)) == 11
    assert not set(texts) & {prompt.text for prompt in own.prompts}
    assert [prompt.seed for prompt in fresh.prompts] == list(range(1000, 1011))
    assert fresh.directory == tmp_path / "made-claims" / "own"
    assert fresh.at(own.cell).sae == own.sae  # the same autoencoders
    assert fresh.activations.is_relative_to(fresh.directory)
    assert fresh.concepts.is_relative_to(fresh.directory)


def test_another_registration_gets_other_captions_and_other_noise(tmp_path):
    first = registered(tmp_path)
    first.register()
    for seed, whose in ((1010, "own"), (15, "made")):
        with pytest.raises(UserError, match=f"noise that {whose} has used"):
            registered(tmp_path, name="next", seed=seed).register()
    second = registered(tmp_path, name="next", seed=1011)
    second.register()
    captions = [{prompt.text for prompt in one.fresh.prompts} for one in (first, second)]
    assert not captions[0] & captions[1]


def test_a_registration_says_what_was_claimed_when_and_at_which_commit(tmp_path):
    one = registered(tmp_path)
    one.register()
    record = one.record
    assert record is not None and record.determines == one.values
    judgement = judgement_of(one)
    assert (judgement.signature, judgement.registered) == (record.signature, record.started)
    assert judgement.git_commit == record.git_commit
    assert set(record.outputs or {}) == {"captions.jsonl"}


def test_verdicts_of_what_is_evaluated_count_every_picture_once(tmp_path):
    one = registered(tmp_path)
    one.register()
    place(one, concepts=1.0)
    summarise_claims(one)
    moved, fixed = judgement_of(one).verdicts
    # All eight captions differ: 1 of 2^8 flips. Against .25 of 0 to 1: .25^8, which the draws see
    # as 1 of 20,001.
    assert moved.state == "holds"
    assert (moved.baseline, moved.p) == ("no_edit", 1 / 256)
    assert moved.p_adjusted == pytest.approx(2 / 256)
    assert (moved.effect, moved.pictures, moved.cases) == (1.0, 8, 32)
    assert moved.ci95 is not None and moved.ci95[0] < 1
    assert (fixed.state, fixed.p) == ("fails", 1.0)
    assert fixed.p_fails_adjusted <= 0.05


def test_claims_without_data_are_not_evaluated_and_say_why(tmp_path):
    nothing = {**MOVED, "select": {"method": "magic"}}
    elsewhere = {**MOVED, "cell": {**DOWN, "block": "mid"}}
    one = registered(tmp_path, {"a": MOVED, "b": nothing, "c": elsewhere})
    assert {v.note for v in judgement_of(one).verdicts} == {
        "not registered yet: run `diffusae claims`"
    }
    one.register()
    place(one, concepts=1.0)
    summarise_claims(one)
    a, b, c = judgement_of(one).verdicts
    assert (a.state, b.state, c.state) == ("holds", "not evaluated", "not evaluated")
    assert a.p_adjusted == pytest.approx(3 / 256)  # all three count
    assert "no value of success at split=test, method=magic" in b.note
    assert c.note == "spatial at mid-t1.00-cond is not evaluated"
    text = claims_markdown(judgement_of(one))
    assert "One autoencoder of every cell was judged, of one training seed" in text
    assert "1 of 3 claims hold, 0 fail, 0 are undecided, 2 are not evaluated" in text
    assert "| An object can be moved | holds | +1.000 [" in text


def test_an_evaluation_from_before_the_registration_does_not_count(tmp_path, caplog):
    one = registered(tmp_path)
    one.register()
    directory = place(one, concepts=1.0)
    record = read_record(directory)
    assert record is not None
    early = replace(record, started="2020-01-01T00:00:00+00:00")
    write_sealed(directory / RECORD, asdict(early))
    summarise_claims(one)
    assert {v.state for v in judgement_of(one).verdicts} == {"not evaluated"}
    assert "was evaluated before the claims were registered" in caplog.text


def test_claims_may_change_until_a_figure_exists(tmp_path):
    registered(tmp_path).register()
    other = registered(tmp_path, alpha=0.01)
    assert other.changed
    assert other.register()
    assert not other.changed


def test_claims_that_were_changed_after_their_result_are_stale_and_not_judged_again(tmp_path):
    one = registered(tmp_path)
    one.register()
    place(one, concepts=1.0)
    summarise_claims(one)
    lenient = registered(tmp_path, {"moved": {**MOVED, "margin": 0.2}, "fixed": FIXED})
    assert lenient.changed
    with pytest.raises(UserError, match=r"the result is stale(.|\n)*margin: 0.1 -> 0.2"):
        lenient.register()
    summarise_claims(lenient)
    judgement = judgement_of(lenient)
    assert judgement.changed
    assert judgement.verdicts == judgement_of(one).verdicts  # of the registered claims
    assert "it is stale" in claims_markdown(judgement)


def test_verdicts_are_made_again_only_when_there_is_more(tmp_path):
    one = registered(tmp_path)
    one.register()
    place(one, concepts=1.0)
    summarise_claims(one)
    path = one.directory.parent / "claims" / "k10" / "claims.json"
    before = path.stat().st_mtime_ns
    summarise_claims(one)
    assert path.stat().st_mtime_ns == before
    place_spatial(one.fresh, {"concepts": [1] * 32, "no_edit": [0] * 32}, t=0.5, examples=False)
    summarise_claims(one)
    assert path.stat().st_mtime_ns != before


def test_the_shipped_claims_have_no_fault_and_those_of_the_study_are_named_at_once(tmp_path):
    shipped = Registered.of(Study(compose("claims", [f"paths.outputs={tmp_path}"])))
    assert shipped.faults() == []
    assert len(shipped.claims.stated) == 18
    photos = compose("claims", ["claims=emergence_photos", "experiment=paper_sd14"])
    assert Registered.of(Study(photos)).faults() == []
    less = compose("claims", ["grid.blocks=[down]", "block=down"])
    faults = Registered.of(Study(less)).faults()
    assert all("unknown cell of the grid" in fault for fault in faults) and len(faults) > 10
    late = registered(tmp_path, {"late": {**MOVED, "window": "final"}})
    assert late.faults() == ["claims.stated.late.window=final: at t=1 the window early is edited"]
    with pytest.raises(UserError, match=r"a claim has the fields .*unknown: sentense"):
        registered(tmp_path, {"typo": {**MOVED, "sentense": "x"}})


def test_the_command_registers_makes_pictures_evaluates_and_judges(tmp_path):
    """On autoencoders made by hand; a second time, everything is there."""
    place_study(tmp_path)
    options = tmp_path / "options" / "claims"
    options.mkdir(parents=True)
    composition = {
        "metric": "composition",
        "column": "iou",
        "cell": {**DOWN, "t": 0.5},
        "sentence": "It is there",
        "expects": "more",
        "margin": 0.05,
        "test": "sign_flip",
    }
    claims = {
        "name": "tiny",
        "source": "us",
        "alpha": 0.05,
        "power": 0.8,
        "seed": 500,
        "captions": 4,
        "least_captions": 2,
        "options": {},
        "settings": {"composition": {"n_resamples": 50}, "cohesion": {"n_shuffles": 5}},
        "stated": {
            "guess": {**composition, "against": {"chance": {"column": "centre_prior"}}},
            "earlier": {**composition, "against": {"first": {"cell": DOWN}}},
            "cohesion": {
                **composition,
                "metric": "cohesion",
                "column": "cohesion",
                "against": {"first": {"cell": DOWN}},
                "test": "permutation",
            },
        },
    }
    (options / "tiny.yaml").write_text(json.dumps(claims))
    given = [
        *("claims", "debug=tiny", "model.steps=8", "conditioning=cond", "claims=tiny"),
        *("grid.blocks=[down]", "grid.timesteps=[1.0,0.5]"),
        *("grid.conditionings=[cond]", "block=down", f"paths.outputs={tmp_path}"),
        *("--config-dir", str(options.parent)),
    ]
    done = command.diffusae(*given)
    assert "# Claims: tiny" in done.stdout
    root = tmp_path / "tiny-claims" / "tiny"
    stored = json.loads((root / "claims" / "k4" / "claims.json").read_text())
    by_name = {verdict["name"]: verdict for verdict in stored["verdicts"]}
    assert list(by_name) == ["guess", "earlier", "cohesion"]
    guess = by_name["guess"]
    table: Any = pd.read_parquet(root / "evaluation/composition/down-t0.50-cond-k4/objects.parquet")
    by_picture = (table["iou"] - table["centre_prior"]).groupby(table["image_id"]).mean()
    assert guess["effect"] == pytest.approx(by_picture.mean())
    assert (guess["pictures"], guess["cases"]) == (len(by_picture), len(table))
    assert {"chance", "centre_prior", "other_picture"} <= {*table.columns}
    started = read_record(root / "evaluation/composition/down-t0.50-cond-k4")
    registration = read_record(root / "registration")
    assert started is not None and registration is not None
    assert started.started >= registration.started
    again = command.diffusae(*given)
    assert again.stdout.partition("# Claims")[2] == done.stdout.partition("# Claims")[2]
    assert read_record(root / "evaluation/composition/down-t0.50-cond-k4") == started
