"""A study of given pictures from drawing to page, through the real command."""

import json
from pathlib import Path

import pytest

from command import diffusae

pytestmark = pytest.mark.slow

STUDY = [
    "debug=tiny",
    "collection=pictures_world",
    "collection.counts={train: 8, validation: 4, dictionary: 48, tune: 24, test: 48}",
    "grid.timesteps=[0.5]",
    "grid.blocks=[mid,down]",
    "metrics=[purity,knowledge]",
    "+metric_settings.purity.n_draws=5",
    "+metric_settings.knowledge.diff_c={width: 4, epochs: 1}",
]


def run(outputs: Path) -> str:
    done = diffusae("run", *STUDY, f"paths.outputs={outputs}")
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    outputs = tmp_path_factory.mktemp("revelio")
    run(outputs)
    return outputs


def test_one_command_collects_both_denoisers_and_evaluates_every_cell(study):
    root = study / "tiny"
    both = [
        json.loads((root / name / "manifest.json").read_text())["header"]
        for name in ("activations", "activations_random")
    ]
    assert [header["random_weights"] for header in both] == [False, True]
    for cell in ("mid-t0.50-uncond-k4", "down-t0.50-uncond-k4"):
        rows = json.loads((root / "evaluation" / "knowledge" / cell / "results.json").read_text())
        assert {row["details"]["task"] for row in rows} == {
            "object",
            "colour",
            "place",
            "count",
            "style",
        }
        assert all(
            {"majority", "pixels", "random_weights"} <= set(row["baselines"]) for row in rows
        )
        assert (root / "evaluation" / "purity" / cell / "gallery.safetensors").exists()
    assert not (root / "annotations").exists()  # nothing here needs an annotator, or a dictionary
    assert not (root / "concepts").exists()


def test_settings_inside_a_metrics_settings_keep_the_others(study):
    record = json.loads(
        (
            study / "tiny" / "evaluation" / "knowledge" / "mid-t0.50-uncond-k4" / "run.json"
        ).read_text()
    )
    used = record["config"]["evaluation"]["diff_c"]
    assert (used["width"], used["epochs"], used["batch_size"]) == (4, 1, 16)


def test_the_page_answers_which_block_and_which_t_know_what(study):
    page = (study / "tiny" / "report" / "index.html").read_text()
    assert "Which block and which moment know what?" in page
    assert "What the model was given" in page


def test_a_second_time_nothing_is_done(study):
    printed = run(study)
    assert "2 of 2 cells are finished" in printed
    assert printed.count("is collected already") == 2
