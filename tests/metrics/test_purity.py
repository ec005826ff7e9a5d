"""Purity of an autoencoder whose first latents are the objects, from collection to gallery."""

import json

import numpy as np
import pandas as pd
import pytest

from diffusae.concepts.gallery import Gallery
from diffusae.errors import UserError
from diffusae.evaluation.result import load_results
from diffusae.metrics.purity import METRIC, PuritySettings
from diffusae.report.purest import load_purest, shared_labels
from diffusae.stages.evaluate import evaluate
from diffusae.stages.report import report
from labelled_collection import TASKS, place_collection, place_sae, study_in, value
from stages.evaluated_interventions import record_again

OVERRIDES = ["evaluation.n_latents=3", "evaluation.n_draws=50", "evaluation.gallery_latents=2"]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    study = study_in(tmp_path_factory.mktemp("purity"), *OVERRIDES, evaluation="purity")
    place_collection(study.activations)
    place_sae(study)
    assert evaluate(study.cfg)
    return study


def rows(study):
    return {row.metric: row for row in load_results(study.evaluation("purity") / "results.json")}


def test_there_are_two_rows_a_task_and_planted_objects_are_pure(evaluated):
    results = rows(evaluated)
    assert set(results) == {
        f"{name}_{task}" for name in ("label_entropy", "sigma_label") for task in TASKS
    }
    for name in ("label_entropy_object", "sigma_label_object"):
        assert results[name].value == 0
        assert results[name].estimate.n == 3
        assert all(value(baseline) > 0.4 for baseline in results[name].baselines.values())
    place = results["label_entropy_place"]
    assert value(place) > 0.5  # an object's pictures are left and right
    assert place.value == pytest.approx(place.baselines["random_pictures"].value, abs=0.3)


def test_the_table_has_a_row_a_judged_latent(evaluated):
    table = pd.read_parquet(evaluated.evaluation("purity") / "latents.parquet")
    assert sorted(table["latent"]) == [0, 1, 2]
    labels = table.sort_values("latent")["object_label"].tolist()
    assert labels == TASKS["object"]
    assert table["object_share"].tolist() == [1, 1, 1]
    assert all(len(ids) == 10 for ids in table["top_images"])


def test_the_gallery_shows_the_purest_latents_of_every_task_with_their_maps(evaluated):
    gallery, table = load_purest(evaluated.evaluation("purity"))
    assert isinstance(gallery, Gallery)
    assert 2 <= len(gallery.latents) <= 3
    assert all(len(ids) == 8 for ids in gallery.image_ids)
    assert gallery.maps[0].shape == (8, 4, 4)
    assert gallery.maps[0].amax() > 3
    for latent in gallery.latents:
        labels = shared_labels(table, latent, list(TASKS))
        assert labels[0] == (f"object {TASKS['object'][latent]}", 1.0)


def test_the_panel_for_the_dashboard_has_a_captioned_picture_a_latent(evaluated):
    settings = PuritySettings.of(evaluated.cfg)
    assert METRIC.panel is not None
    panel = METRIC.panel.pictures(evaluated, settings)
    assert panel[0][0].startswith(
        f"latent {load_purest(evaluated.evaluation('purity'))[0].latents[0]}: object"
    )
    assert panel[0][1].dtype == np.uint8


class Colours:
    """A tagger that calls a picture by its brighter half."""

    reads_captions = False

    def tag(self, images, vocabulary, captions):
        assert captions is None
        return [
            ["right" if image[:, 4:].mean() > image[:, :4].mean() else "left"] for image in images
        ]

    def identity(self):
        return {}


def test_a_tagger_names_a_latent_by_the_tag_that_most_of_its_top_pictures_get(
    tmp_path, monkeypatch
):
    from diffusae.metrics import purity as evaluate_purity

    monkeypatch.setattr(evaluate_purity, "build", lambda _node, _place: Colours())
    study = study_in(tmp_path, *OVERRIDES, "evaluation.name_by_tagger=true", evaluation="purity")
    place_collection(study.activations)
    place_sae(study)
    evaluate(study.cfg)
    table = pd.read_parquet(study.evaluation("purity") / "latents.parquet")
    assert set(table["name"]) <= {"left", "right"}
    assert all(0.5 <= share <= 1 for share in table["name_share"].tolist())


def test_the_caption_tagger_reads_the_labels_of_pictures_without_a_prompt(tmp_path):
    study = study_in(tmp_path, *OVERRIDES, "evaluation.name_by_tagger=true", evaluation="purity")
    place_collection(study.activations)
    place_sae(study)
    evaluate(study.cfg)
    table = pd.read_parquet(study.evaluation("purity") / "latents.parquet")
    assert set(table["name"]) <= {name for names in TASKS.values() for name in names}
    assert (
        "tagger" in json.loads((study.evaluation("purity") / "run.json").read_text())["determines"]
    )


def test_a_collection_without_labels_is_refused_with_the_remedy(tmp_path):
    study = study_in(tmp_path, evaluation="purity")
    place_collection(study.activations)
    manifest = study.activations / "manifest.json"
    content = json.loads(manifest.read_text())
    del content["header"]["label_tasks"]
    manifest.write_text(json.dumps(content))
    record_again(study.activations)
    place_sae(study)
    with pytest.raises(UserError, match="carries no class labels; collect given pictures"):
        evaluate(study.cfg)


def test_the_report_shows_accuracies_and_the_purest_latents_of_given_pictures(tmp_path):
    """All that a study of knowledge leaves, on one page."""
    for evaluation, overrides in (
        ("purity", OVERRIDES),
        ("knowledge", ["evaluation.readers=[updates,codes]", "evaluation.random_activations=null"]),
    ):
        study = study_in(tmp_path, *overrides, evaluation=evaluation)
        if evaluation == "purity":
            place_collection(study.activations)
            place_sae(study)
        evaluate(study.cfg)
    report(study_in(tmp_path, stage="report").cfg)
    page = (tmp_path / "made" / "report" / "index.html").read_text()
    for part in (
        "What the model was given",
        "Updates know the object",
        "The purest latents",
        "object fish",
        "fish, left",
    ):
        assert part in page, part
