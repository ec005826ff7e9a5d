"""Curves over t, made of evaluations as they lie in the directories of a study."""

import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from composing import compose
from diffusae.errors import UserError
from diffusae.evaluation.result import Estimate, Result, load_results, save_results
from diffusae.runs.record import read_record, run_record
from diffusae.study.study import Study
from diffusae.summaries.emergence import summarise_emergence

TIMES = (1.0, 0.5, 0.0)
IOU = {1.0: 0.1, 0.5: 0.3, 0.0: 0.5}


def study_in(outputs: Path, *overrides: str) -> Study:
    cfg = compose("report", overrides=["name=made", f"paths.outputs={outputs}", *overrides])
    return Study(cfg)


def evaluate(
    study: Study, t: float, *, conditioning: str = "cond", tag: str = "k10", **columns: float
) -> None:
    """What `diffusae evaluate` leaves at mid, t: four pictures with a cat, all alike but for a
    factor.
    """
    cell = {"model": "miniature", "block": "mid", "t": t, "conditioning": conditioning}
    directory = (
        study.directory / "evaluation" / "composition" / f"mid-t{t:.2f}-{conditioning}-{tag}"
    )
    config = {"sae": {"tag": tag}}
    with run_record(
        directory, stage="evaluate", config=config, determines={"cell": cell}, parents={}, seed=0
    ):
        factors = (0.5, 1.0, 1.0, 1.5)
        table: dict[str, Any] = {"image_id": list("abcd"), "noun": ["cat"] * 4}
        for name, value in {"iou": IOU[t], **columns}.items():
            table[name] = [factor * value for factor in factors]
        pd.DataFrame(table).to_parquet(directory / "objects.parquet", index=False)
        chance = {"chance": Estimate(0.07, (0.05, 0.09), 4)}
        save_results(
            directory / "results.json",
            [Result("composition", Estimate(IOU[t], None, 4), True, "IoU", cell, chance)],
        )


def summary(study: Study, name: str = "mid-cond-k10") -> Path:
    return study.directory / "evaluation" / "emergence" / name / "results.json"


def test_a_curve_is_made_of_the_same_objects_of_every_moment(tmp_path):
    study = study_in(tmp_path)
    for t in TIMES:
        evaluate(study, t, noun_probe=0.8)
    summarise_emergence(study)
    (row,) = load_results(summary(study))
    # Target .45, three quarters of the way from .3 at t = .5 to .5 at t = 0; the factor of a
    # picture changes nothing.
    assert row.value == pytest.approx(0.125)
    assert row.estimate.ci95 == pytest.approx((0.125, 0.125))
    assert row.estimate.n == 4
    assert row.cell == {"model": "miniature", "block": "mid", "conditioning": "cond"}
    assert row.baselines["noun_probe"].value == 1.0
    assert row.baselines["flat_curve"].value == 1.0
    assert row.details["chance"]["value"] == 0.07
    assert [point["value"] for point in row.details["curve"]] == pytest.approx([0.1, 0.3, 0.5])


def test_its_record_names_every_evaluation_that_it_was_made_of(tmp_path):
    study = study_in(tmp_path)
    for t in TIMES:
        evaluate(study, t)
    summarise_emergence(study)
    record = read_record(summary(study).parent)
    assert record is not None
    assert (record.stage, record.status) == ("emergence", "finished")
    assert record.determines["timesteps"] == [1.0, 0.5, 0.0]
    assert set(record.parents) == {f"evaluate mid-t{t:.2f}-cond-k10" for t in TIMES}


def test_a_second_time_changes_nothing_and_another_share_is_refused_with_its_difference(tmp_path):
    study = study_in(tmp_path)
    for t in TIMES:
        evaluate(study, t)
    summarise_emergence(study)
    before = summary(study).stat().st_mtime_ns
    summarise_emergence(study)
    assert summary(study).stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"share: 0\.9 -> 0\.5"):
        summarise_emergence(study_in(tmp_path, "emergence.share=0.5"))


def test_a_grid_of_fewer_moments_than_asked_for_has_no_curve(tmp_path):
    study = study_in(tmp_path, "grid.timesteps=[1.0,0.0]")
    for t in (1.0, 0.0):
        evaluate(study, t)
    summarise_emergence(study)
    assert not summary(study).exists()
    summarise_emergence(study_in(tmp_path, "grid.timesteps=[1.0,0.0]", "emergence.moments=2"))
    assert summary(study).exists()


def test_a_curve_waits_for_all_its_moments_and_says_which_are_missing(tmp_path, caplog):
    study = study_in(tmp_path)
    evaluate(study, 1.0)
    evaluate(study, 0.0)
    with caplog.at_level(logging.INFO):
        summarise_emergence(study)
    assert "no curve of mid-cond-k10 yet: t = 0.50 not evaluated" in caplog.text
    assert not summary(study).exists()


def test_branches_and_saes_of_a_block_have_curves_of_their_own(tmp_path):
    study = study_in(tmp_path)
    for t in TIMES:
        evaluate(study, t)
        evaluate(study, t, conditioning="uncond")
        evaluate(study, t, tag="k20")
    summarise_emergence(study)
    names = sorted(path.name for path in summary(study).parents[1].iterdir())
    assert names == ["mid-cond-k10", "mid-cond-k20", "mid-uncond-k10"]


def test_a_reader_that_one_moment_did_not_keep_is_left_out(tmp_path):
    study = study_in(tmp_path)
    for t in TIMES:
        if t == 0.5:
            evaluate(study, t)
        else:
            evaluate(study, t, noun_probe=0.8)
    summarise_emergence(study)
    (row,) = json.loads(summary(study).read_text())
    assert set(row["baselines"]) == {"flat_curve"}
