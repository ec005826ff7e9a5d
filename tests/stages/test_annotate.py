"""The stages with an annotator for real models in the place of the miniature's: nothing but the
config changes.
"""

import json

import numpy as np
import pandas as pd
import pytest

from composing import compose
from diffusae.concepts.annotations import Annotations
from diffusae.concepts.dictionary import ConceptDictionary
from diffusae.concepts.object_finders import ClipSeg
from diffusae.evaluation.result import load_results
from diffusae.labelling.annotate import determining
from diffusae.metrics.evaluate import _determines
from diffusae.report.comparison import load_reference
from diffusae.stages.annotate import annotate
from diffusae.stages.collect import collect
from diffusae.stages.evaluate import evaluate
from diffusae.stages.label import label
from diffusae.stages.train import train
from diffusae.study.study import Study
from tiny_annotators import WORDS, TinyAnnotators

STUDY = [
    "debug=tiny",
    "model.steps=2",
    "grid.timesteps=[0.0]",
    "grid.blocks=[mid]",
    "grid.conditionings=[cond]",
    "timestep=final",
    "prompts.counts={train: 2, validation: 1, dictionary: 2, tune: 4, test: 4}",
    "trainer.steps=2",
    "embedding=text_encoder",
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return TinyAnnotators(tmp_path_factory.mktemp("annotators"))


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def config(outputs, tiny):
    styles = [
        f"annotator.styles.model.source={tiny['clip']}",
        "annotator.vocabulary=[fish,house,tree,boat,star,heart]",
    ]
    options = {
        "grounded_sam": [
            f"annotator.objects.detector.source={tiny['grounding_dino']}",
            f"annotator.objects.segmenter.source={tiny['sam']}",
            "annotator.objects.detector.box_threshold=0.001",
            "annotator.objects.detector.text_threshold=0.001",
        ],
        "clipseg": [f"annotator.objects.source={tiny['clipseg']}"],
    }

    def composed(stage, annotator, *overrides):
        own = [f"annotator={annotator}", *options[annotator], *styles]
        return compose(stage, overrides=[*STUDY, f"paths.outputs={outputs}", *own, *overrides])

    return composed


@pytest.fixture(scope="module")
def annotated(config, outputs):
    collect(config("collect", "grounded_sam"))
    assert annotate(config("annotate", "grounded_sam"))
    return outputs / "tiny"


def test_the_stage_writes_the_annotations_of_tags_boxes_and_masks(annotated):
    annotations = Annotations.load(annotated / "annotations")
    assert len(annotations.masks) == len(annotations.second) == 10
    masks = [
        (noun, mask)
        for of_picture in annotations.masks.values()
        for noun, mask in of_picture.items()
    ]
    assert masks and {noun for noun, _ in masks} <= set(WORDS)
    assert all(mask.shape == (64, 64) and mask.any() for _, mask in masks)
    assert set(annotations.described["style"]) <= {
        "photograph",
        "painting",
        "sketch",
        "cartoon",
        "watercolour",
    }


def test_only_nouns_of_the_pictures_own_caption_are_found_by_the_tagger_of_captions(
    config, annotated
):
    annotations = Annotations.load(annotated / "annotations")
    prompts = {p.image_id: p.text for p in Study(config("annotate", "grounded_sam")).prompts}
    assert any(annotations.masks.values())
    for image_id, masks in annotations.masks.items():
        assert set(masks) <= set(prompts[image_id].split(" "))


def test_what_is_annotated_is_not_done_again_whatever_the_batch_size(config, annotated):
    assert not annotate(
        config("annotate", "grounded_sam", "annotator.batch_size=3", "annotator.cache=null")
    )
    kept = list((annotated.parent / "annotation_cache").rglob("*.safetensors"))
    assert len(kept) == 2 * 10, "each picture and its mirror image"


def test_settings_that_change_the_speed_alone_determine_nothing(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    settings = {
        "a": {"source": str(tmp_path), "device": None, "batch_size": 1},
        "b": [{"cache": "x", "t": 0.5}],
        "c": "x",
    }
    first = determining(settings)
    assert first["b"] == [{"t": 0.5}] and list(first["a"]) == ["source"] and first["c"] == "x"
    assert first["a"]["source"].startswith("files ")
    (tmp_path / "config.json").write_text('{"x": 1}')
    assert determining(settings) != first
    assert determining({"source": "owner/name", "revision": "abc"}) == {
        "source": "owner/name",
        "revision": "abc",
    }


def test_interventions_are_judged_by_clipseg_and_clip(config, annotated, monkeypatch):
    train(config("train", "grounded_sam"))
    label(config("label", "grounded_sam"))
    dictionary = ConceptDictionary.load(annotated / "concepts" / "mid-t0.00-cond-k4")
    assert dictionary.facts["n_annotated"] > 0
    asked = []
    find = ClipSeg.find

    def spy(self, images, vocabulary, captions):
        asked.append(captions)
        return find(self, images, vocabulary, captions)

    monkeypatch.setattr(ClipSeg, "find", spy)
    few = [
        "evaluation.strengths=[1.0]",
        "evaluation.tune_prompts=1",
        "evaluation.test_prompts=1",
        "evaluation.steps=2",
    ]
    evaluate(
        config("evaluate", "clipseg", "evaluation=spatial", "evaluation.regions=[top_left]", *few)
    )
    assert asked and all(captions for captions in asked), "the prompts' own nouns are looked for"
    evaluate(config("evaluate", "clipseg", "evaluation=global", "evaluation.factors=[style]", *few))
    root = annotated / "evaluation"
    rows = load_results(root / "spatial" / "mid-t0.00-cond-k4" / "results.json")
    assert {row.metric for row in rows} >= {"spatial_success", "spatial_recognised"}
    table = pd.read_parquet(root / "global" / "mid-t0.00-cond-k4" / "pictures.parquet")
    assert set(table["factor"]) == {"style"} and set(table["target"]) <= {
        "photograph",
        "painting",
        "sketch",
        "cartoon",
        "watercolour",
    }
    assert np.isfinite(table["similarity"]).all()
    figures = {
        row.metric for row in load_results(root / "global" / "mid-t0.00-cond-k4" / "results.json")
    }
    answering = [
        row.ours
        for row in load_reference("arxiv_2504_15473").rows
        if row.table.startswith("Global")
    ]
    assert answering and all(figures & {*ours} for ours in answering if ours != ["style_lpips"])
    assert (
        json.loads((root / "global" / "mid-t0.00-cond-k4" / "run.json").read_text())["status"]
        == "finished"
    )


def test_another_judge_is_another_evaluation_where_new_pictures_are_judged_and_only_there(config):
    for metric, judged in (
        ("spatial", True),
        ("global", True),
        ("faithfulness", True),
        ("composition", False),
    ):
        first, second = (
            _determines(Study(config("evaluate", annotator, f"evaluation={metric}")))
            for annotator in ("grounded_sam", "clipseg")
        )
        assert (first != second) is judged, metric
