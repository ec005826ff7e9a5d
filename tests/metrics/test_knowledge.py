"""Knowledge of planted labels: the updates hold the object, the pixels the place, and random
weights nothing.
"""

import shutil

import numpy as np
import pandas as pd
import pytest

from diffusae.errors import UserError
from diffusae.evaluation.result import load_results
from diffusae.metrics import knowledge as evaluate_knowledge
from diffusae.stages.evaluate import evaluate
from labelled_collection import COUNTS, place_all, place_collection, place_sae, study_in, value

QUICK = ["evaluation.diff_c.width=16", "evaluation.diff_c.epochs=30", "evaluation.diff_c.lr=0.003"]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    study = study_in(tmp_path_factory.mktemp("knowledge"), *QUICK)
    place_all(study)
    assert evaluate(study.cfg)
    return study


def rows(study):
    return {row.metric: row for row in load_results(study.evaluation("knowledge") / "results.json")}


def test_there_is_one_row_a_task_and_reader(evaluated):
    assert set(rows(evaluated)) == {
        f"accuracy_{task}_{reader}"
        for task in ("object", "place")
        for reader in ("updates", "codes", "diff_c")
    }


def test_what_is_planted_is_read_and_n_counts_the_test_pictures_with_that_label(evaluated):
    results = rows(evaluated)
    for reader in ("updates", "codes", "diff_c"):
        row = results[f"accuracy_object_{reader}"]
        assert value(row) > 0.95
        assert row.estimate.n == 40  # every third of the 60 has no object
        assert row.details["n_fitting"] == 40
    assert results["accuracy_place_updates"].estimate.n == COUNTS["test"]


def test_averages_lose_the_place_and_diff_c_finds_it(evaluated):
    results = rows(evaluated)
    assert results["accuracy_place_updates"].value == pytest.approx(0.5, abs=0.2)
    assert value(results["accuracy_place_diff_c"]) > 0.9


def test_the_baselines_are_pixels_random_weights_and_the_majority(evaluated):
    results = rows(evaluated)
    row = results["accuracy_object_updates"]
    assert list(row.baselines) == ["majority", "pixels", "random_weights"]
    assert results["accuracy_place_updates"].baselines["pixels"].value == 1
    for name, chance in (("pixels", 1 / 3), ("random_weights", 1 / 3), ("majority", 1 / 3)):
        assert row.baselines[name].value == pytest.approx(chance, abs=0.25)
        assert row.baselines[name].n == 40
    assert "update_probe" in results["accuracy_object_codes"].baselines
    assert value(results["accuracy_place_diff_c"].baselines["random_weights"]) < 0.8


def test_every_test_picture_is_kept_with_what_each_reader_made_of_it(evaluated):
    directory = evaluated.evaluation("knowledge")
    table = pd.read_parquet(directory / "pictures.parquet")
    assert table["task"].tolist().count("object") == 40
    assert table["task"].tolist().count("place") == 60
    objects = table[table.task == "object"]
    assert (
        float(np.mean(objects["updates"].tolist()))
        == rows(evaluated)["accuracy_object_updates"].value
    )
    assert not list(directory.glob("diff_c*"))  # no checkpoint is left


def test_a_second_time_nothing_is_done_and_again_gives_the_same_figures(evaluated, tmp_path):
    assert not evaluate(evaluated.cfg)
    before = {name: row.to_json() for name, row in rows(evaluated).items()}
    kept = evaluated.evaluation("knowledge")
    shutil.move(kept, tmp_path / "before")
    evaluate_knowledge._pixel_readings.cache_clear()
    evaluate(evaluated.cfg)
    assert {name: row.to_json() for name, row in rows(evaluated).items()} == before


def test_pixels_are_read_once_for_all_cells(evaluated, monkeypatch):
    monkeypatch.setattr(evaluate_knowledge, "read_images", lambda *_: pytest.fail("read again"))
    study = evaluated
    other = study_in(
        study.directory.parent, "evaluation.readers=[updates]", "evaluation.random_activations=null"
    )
    settings = evaluate_knowledge.KnowledgeSettings.of(other.cfg)
    evaluate_knowledge.knowledge_rows(other, settings, pytest.fail)


def test_a_collection_of_other_pictures_is_no_baseline(tmp_path):
    study = study_in(tmp_path, "evaluation.readers=[updates]")
    place_collection(study.activations)
    place_collection(
        study.directory / "activations_random", knows=False, counts={**COUNTS, "test": 50}
    )
    place_sae(study)
    with pytest.raises(UserError, match="holds other pictures"):
        evaluate(study.cfg)


def test_without_the_collection_of_random_weights_the_error_says_which_is_missing(tmp_path):
    study = study_in(tmp_path)
    place_collection(study.activations)
    place_sae(study)
    with pytest.raises(
        UserError, match=r"finished run of collect is needed in .*activations_random"
    ):
        evaluate(study.cfg)


def test_unknown_readers_and_tasks_are_refused_by_name(tmp_path):
    for override, message in (
        (
            "evaluation.readers=[eyes]",
            r"unknown reader in evaluation.readers: 'eyes'; known: codes, diff_c, updates",
        ),
        (
            "evaluation.tasks=[shape]",
            r"unknown task in evaluation.tasks: 'shape'; known: object, place",
        ),
    ):
        study = study_in(tmp_path / "one", override)
        shutil.rmtree(tmp_path / "one", ignore_errors=True)
        place_all(study)
        with pytest.raises(UserError, match=message):
            evaluate(study.cfg)


def test_one_task_may_have_too_little_and_the_others_still_have_figures(tmp_path):
    study = study_in(
        tmp_path,
        "evaluation.readers=[updates,diff_c]",
        "evaluation.random_activations=null",
        *QUICK,
    )
    place_collection(
        study.activations, counts={"dictionary": 12, "tune": 1, "test": 12}
    )  # tune: no object
    place_sae(study)
    evaluate(study.cfg)
    results = rows(study)
    assert results["accuracy_object_updates"].value is None
    assert results["accuracy_object_diff_c"].value is None
    assert results["accuracy_place_updates"].value is not None
    assert results["accuracy_place_diff_c"].estimate.n == 12


def test_generated_pictures_have_no_labels_and_the_error_says_which_collection_has(tmp_path):
    study = study_in(tmp_path, "collection=generation", "conditioning=cond")
    with pytest.raises(
        UserError, match=r"metric knowledge needs class labels.*collection=pictures_world"
    ):
        evaluate(study.cfg)
