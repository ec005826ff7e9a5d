"""All stages chained on the shipped miniature, at the smallest size, through the real command."""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import command
from diffusae.concepts.dictionary import ConceptDictionary
from diffusae.evaluation.result import load_results
from diffusae.runs.metric_log import read_metrics
from diffusae.sae.storage import load_sae
from wandb_records import history_of, records_of, values_of

CELLS = ["grid.timesteps=[1.0,0.0]", "grid.blocks=[mid]"]


def diffusae(
    *arguments: str, outputs: Path, check: bool = True
) -> subprocess.CompletedProcess[str]:
    return command.diffusae(*arguments, f"paths.outputs={outputs}", check=check)


def results_of(outputs: Path) -> dict[str, list]:
    results = sorted(outputs.rglob("results.json"))
    return {str(path.relative_to(outputs)): json.loads(path.read_text()) for path in results}


@pytest.fixture(scope="session")
def study(tmp_path_factory) -> Path:
    outputs = tmp_path_factory.mktemp("study")
    diffusae("run", "debug=tiny", *CELLS, "logger.mode=offline", outputs=outputs)
    return outputs


def test_every_directory_of_the_contract_is_there(study):
    root = study / "tiny"
    cell = "mid-t1.00-cond-k4"
    for name in (
        "activations/manifest.json",
        "activations/mid/t1.00/uncond/shard-000000.tar",
        "activations/images/shard-000002.tar",
        "annotations/objects.parquet",
        f"sae/{cell}/sae.safetensors",
        f"sae/{cell}/metrics.jsonl",
        f"concepts/{cell}/dictionary.parquet",
        f"evaluation/composition/{cell}/results.json",
        f"evaluation/reconstruction/{cell}/results.json",
        f"evaluation/cohesion/{cell}/results.json",
        f"evaluation/latents/{cell}/results.json",
        f"evaluation/latents/{cell}/latents.parquet",
        "report/index.html",
    ):
        assert (root / name).is_file(), name
    assert not list(root.rglob("*.partial"))
    assert all(
        json.loads(path.read_text())["status"] == "finished" for path in root.rglob("run.json")
    )


def test_every_figure_has_n_an_interval_and_a_baseline(study):
    rows = [row for path in study.rglob("results.json") for row in load_results(path)]
    names = {"composition", "explained_variance", "dead_fraction", "l0", "cohesion", "separability"}
    assert {row.metric for row in rows} >= names | {
        "noun_entropy",
        "context_free_fraction",
        "stability",
    }
    for row in rows:
        if row.estimate.n > 1:
            assert row.estimate.ci95 is not None
            assert row.estimate.value is not None
            assert row.estimate.ci95[0] <= row.estimate.value <= row.estimate.ci95[1]
        assert row.baselines


def test_a_metric_that_run_does_not_know_is_refused(study):
    done = diffusae("run", "debug=tiny", *CELLS, "metrics=[kohesion]", outputs=study, check=False)
    assert done.returncode == 2
    assert "'kohesion'; known: cohesion, composition" in done.stderr


def test_faithfulness_replaces_the_update_and_its_control_changes_nothing(study):
    cell = "mid-t0.00-cond-k4"
    options = ["debug=tiny", *CELLS, "timestep=final"]
    diffusae("evaluate", "evaluation=faithfulness", *options, outputs=study)
    directory = study / "tiny" / "evaluation" / "faithfulness" / cell
    rows = {row.metric: row for row in load_results(directory / "results.json")}
    shutil.rmtree(directory)
    assert rows["picture_ssim"].baselines["with_error"].value == pytest.approx(1, abs=1e-3)
    assert rows["content_kept"].baselines["with_error"].value == 1
    assert rows["denoising_error_change"].baselines["with_error"].value == pytest.approx(
        0, abs=1e-4
    )
    assert rows["denoising_error_change"].value != 0
    assert rows["usable"].details["gate"] in ("usable", "unreliable")


def test_truth_is_told_from_what_the_study_has_stored(study):
    cell = "mid-t0.00-cond-k4"
    options = ["debug=tiny", *CELLS, "timestep=final", "evaluation.n_resamples=20"]
    few = "evaluation.minimum_pictures=1"
    diffusae("evaluate", "evaluation=truth", few, *options, outputs=study)
    directory = study / "tiny" / "evaluation" / "truth" / cell
    rows = {row.metric: row for row in load_results(directory / "results.json")}
    shutil.rmtree(directory)
    beside = {name: one.value or 0.0 for name, one in rows["recovery"].baselines.items()}
    # Not 1: values that the same few pictures show cannot be told apart when latents are chosen.
    assert beside["oracle_ceiling"] > max(beside["permuted_labels"], beside["random_weights"], 0.8)
    assert {"permuted_labels", "random_weights", "neurons", "dense_probe", "always_yes"} < set(
        rows["recovery"].baselines
    )
    assert any(name.startswith("recovery_") and row.details["values"] for name, row in rows.items())
    assert rows["audit_explained_variance"].baselines["oracle_ceiling"].value == 1
    assert rows["stability_maps"].value is None, "there is no other seed"


def test_a_metric_for_a_cell_that_the_grid_lacks_is_refused(study):
    wanted = "metrics_at.spatial=[mid-t0.30-cond]"
    done = diffusae("run", "debug=tiny", *CELLS, wanted, outputs=study, check=False)
    assert done.returncode == 2
    assert "'mid-t0.30-cond'; known: mid-t0.00-cond" in done.stderr


@pytest.mark.parametrize("metric", ["spatial", "global"])
def test_interventions_are_judged_beside_their_controls(study, metric, tmp_path):
    few = [
        "evaluation.strengths=[1.0]",
        "evaluation.tune_prompts=1",
        "evaluation.test_prompts=2",
        "evaluation.steps=5",
    ]
    diffusae(
        "evaluate",
        f"evaluation={metric}",
        *few,
        "debug=tiny",
        *CELLS,
        "timestep=early",
        outputs=study,
    )
    directory = study / "tiny" / "evaluation" / metric / "mid-t1.00-cond-k4"
    rows = {row.metric: row for row in load_results(directory / "results.json")}
    shutil.copytree(study / "tiny", tmp_path / "tiny")
    shutil.rmtree(directory)
    row = rows["spatial_success" if metric == "spatial" else "style_reached"]
    assert {"no_edit", "difference_of_means", "random_latent", "neuron"} <= set(row.baselines)
    assert row.baselines["random_latent"].n > 0
    assert row.details["window"] == [1.0, 0.6]
    if metric == "spatial":
        recognised = rows["spatial_recognised"].baselines["no_edit"].value
        assert recognised is not None
        # An unedited object that is found lies in one of the four quadrants: a quarter of the
        # cases.
        assert row.baselines["no_edit"].value == pytest.approx(recognised / 4)
    else:  # the report makes the three-stage table of it
        diffusae("report", "debug=tiny", *CELLS, "logger.mode=disabled", outputs=tmp_path)
        table = pd.read_parquet(tmp_path / "tiny" / "evaluation" / "three_stages" / "table.parquet")
        counts = table[table["edit"] == "style"].set_index("method")["reached_n"].to_dict()
        assert set(table["window"]) == {"early"}
        assert counts == {
            name: estimate.n
            for name, estimate in {"concepts": row.estimate, **row.baselines}.items()
        }
        assert 'id="interventions"' in (tmp_path / "tiny" / "report" / "index.html").read_text()


def test_run_compares_seeds_trains_side_by_side_and_edits_blocks_together(tmp_path):
    grid = ["grid.timesteps=[0.0]", "grid.blocks=[down,mid]", "grid.conditionings=[cond]"]
    few = (
        "{strengths: [1.0], tune_prompts: 1, test_prompts: 2, steps: 5, factors: [tone],"
        " under_objects: []}"
    )
    more = [
        "side_by_side=true",
        "stability.seeds=2",
        "stability.cells=[mid-t0.00-cond]",
        "metrics=[latents,composition,cohesion,reconstruction]",
        "metrics_at.global_together=[down-t0.00-cond]",
        f"+metric_settings.global_together={few}",
    ]
    words = ["run", "debug=tiny", *grid, *more, "logger.mode=disabled"]
    diffusae(*words, outputs=tmp_path)
    root = tmp_path / "tiny"
    assert sorted(path.name for path in (root / "sae").iterdir() if path.name[0] != ".") == [
        "down-t0.00-cond-k4", "mid-t0.00-cond-k4", "mid-t0.00-cond-k4-seed1"
    ]  # fmt: skip
    latents = {
        cell: {
            row.metric: row
            for row in load_results(root / "evaluation" / "latents" / cell / "results.json")
        }
        for cell in ("down-t0.00-cond-k4", "mid-t0.00-cond-k4")
    }
    compared = latents["mid-t0.00-cond-k4"]["stability"]
    assert compared.value is not None and compared.estimate.n > 0
    for metric in ("latents", "composition", "cohesion", "reconstruction"):
        for cell, seeds in (("down-t0.00-cond-k4", None), ("mid-t0.00-cond-k4", 2)):
            for row in load_results(root / "evaluation" / metric / cell / "results.json"):
                assert row.details.get("sae_seeds") == seeds
    reconstructed = load_results(
        root / "evaluation" / "reconstruction" / "mid-t0.00-cond-k4" / "results.json"
    )
    fvu = next(row for row in reconstructed if row.metric == "fvu")
    assert fvu.value == pytest.approx(np.mean(fvu.details["values_by_seed"]))
    assert len(set(fvu.details["values_by_seed"])) == 2
    page = (root / "report" / "index.html").read_text()
    assert "1 or 2 SAE seeds a cell" in page
    assert (
        "stability" not in latents["down-t0.00-cond-k4"]
        or latents["down-t0.00-cond-k4"]["stability"].value is None
    )
    together = load_results(
        root / "evaluation" / "global_together" / "down-t0.00-cond-k4" / "results.json"
    )
    assert {row.metric for row in together} == {
        f"tone_{column}_together"
        for column in (
            "rose",
            "reached",
            "score_before",
            "score_after",
            "gain",
            "similarity",
            "feature_distance",
            "kept",
        )
    }
    assert together[0].details["blocks"] == ["down", "mid"]
    again = diffusae(*words, outputs=tmp_path)
    assert {row[1] for row in table_of(again)} == {"skipped"}
    words[-2] = "+metric_settings.global_together={strength: 2}"
    wrong = diffusae(*words, outputs=tmp_path, check=False)
    assert wrong.returncode == 2
    assert "unknown value in metric_settings.global_together: 'strength'" in wrong.stderr


def test_steer_writes_the_picture_before_and_after_and_a_strip(study):
    concept = ConceptDictionary.load(study / "tiny" / "concepts" / "mid-t1.00-cond-k4").labels[0]
    asked = [
        "prompt=a flat drawing of a red fish",
        f"concept={concept}",
        "strengths=[2.0]",
        "timestep=early",
    ]
    diffusae("steer", *asked, "debug=tiny", *CELLS, outputs=study)
    (directory,) = (study / "tiny" / "steer").iterdir()
    before, after = (
        np.asarray(Image.open(directory / name)) for name in ("before.png", "strength-2.png")
    )
    assert before.shape == after.shape == (64, 64, 3)
    assert (before != after).any()
    assert (directory / "strip.png").is_file()
    unknown = diffusae(
        "steer",
        "prompt=a fish",
        "concept=submarine",
        "timestep=early",
        "debug=tiny",
        *CELLS,
        outputs=study,
        check=False,
    )
    shutil.rmtree(directory.parent)
    assert unknown.returncode == 2
    assert "'submarine'; known: " in unknown.stderr


def test_two_saes_of_one_cell_tell_how_stable_latents_are(study):
    cell, root = "mid-t1.00-cond-k4", study / "tiny"
    options = ["debug=tiny", *CELLS, "timestep=early"]
    diffusae("train", *options, "seed=1", "sae.tag=seed1", outputs=study)
    results = root / "evaluation" / "latents" / cell
    kept = results.rename(root / "kept")
    diffusae(
        "evaluate", "evaluation=latents", "evaluation.other_tag=seed1", *options, outputs=study
    )
    rows = {row.metric: row for row in load_results(results / "results.json")}
    shutil.rmtree(results)
    kept.rename(results)
    shutil.rmtree(root / "sae" / "mid-t1.00-cond-seed1")
    assert rows["stability"].value is not None
    assert rows["stability"].baselines["random_directions"].value is not None


def test_the_saved_autoencoder_keeps_k_latents_active(study):
    sae, metadata = load_sae(study / "tiny" / "sae" / "mid-t0.00-cond-k4")
    assert metadata["cell"] == {
        "model": "miniature",
        "block": "mid",
        "t": 0.0,
        "conditioning": "cond",
    }
    import torch

    codes = sae.encode(torch.randn(10, sae.d_in))
    assert codes.values.shape == (10, 4)


def test_the_pictures_of_the_report_link_to_records_that_are_there(study):
    page = study / "tiny" / "report" / "index.html"
    links = set(re.findall(r'<a class="run" href="([^"]+)" title="([^"]+)"', page.read_text()))
    assert {href.split("/")[1] for href, _ in links} >= {"activations", "concepts"}
    for href, title in links:
        assert (page.parent / href).resolve().is_file()
        if "/concepts/" in href:
            cell = href.split("/")[2]
            assert title.endswith(f"W&amp;B run diffusae/tiny-{cell.replace('.', '')}")


def test_the_report_makes_the_curves_over_t_of_what_is_evaluated(study, tmp_path):
    shutil.copytree(study / "tiny", tmp_path / "tiny")
    two = ["debug=tiny", *CELLS, "logger.mode=disabled"]
    diffusae("report", *two, outputs=tmp_path)
    assert not (
        tmp_path / "tiny" / "evaluation" / "emergence"
    ).exists()  # two moments, and three make a curve
    diffusae("report", *two, "emergence.moments=2", outputs=tmp_path)
    for branch in ("cond", "uncond"):
        directory = tmp_path / "tiny" / "evaluation" / "emergence" / f"mid-{branch}-k4"
        (row,) = load_results(directory / "results.json")
        assert set(row.baselines) == {
            "cross_attention",
            "noun_probe",
            "any_object_probe",
            "flat_curve",
        }
        for point, t in zip(row.details["curve"], (1.0, 0.0), strict=True):
            cell = tmp_path / "tiny" / "evaluation" / "composition" / f"mid-t{t:.2f}-{branch}-k4"
            (composition,) = load_results(cell / "results.json")
            assert (point["t"], point["n"]) == (t, composition.estimate.n)
            assert point["value"] == pytest.approx(composition.value)
    assert 'id="emergence"' in (tmp_path / "tiny" / "report" / "index.html").read_text()


def test_composition_keeps_the_iou_of_every_object_for_each_reader_that_depends_on_t(study):
    directory = study / "tiny" / "evaluation" / "composition" / "mid-t1.00-cond-k4"
    (row,) = load_results(directory / "results.json")
    objects = pd.read_parquet(directory / "objects.parquet")
    kept = {name: np.nanmean(objects[name].to_numpy()) for name in objects.columns[2:]}
    readers = ("cross_attention", "noun_probe", "any_object_probe")
    readers += ("chance", "centre_prior", "other_picture")
    assert kept == pytest.approx(
        {"iou": row.value, **{name: row.baselines[name].value for name in readers}}
    )


def test_metrics_of_training_and_validation_are_logged(study):
    rows = read_metrics(study / "tiny" / "sae" / "mid-t1.00-cond-k4" / "metrics.jsonl")
    names = {name for row in rows for name in row}
    assert {
        "train/loss",
        "val/explained_variance",
        "val/l0",
        "val/dead_fraction",
        "val/fvu",
    } <= names


def test_the_offline_wandb_run_of_a_cell_holds_the_figures_of_the_local_record(study):
    cell = "mid-t1.00-cond-k4"
    records = records_of(study / "tiny" / "wandb", f"tiny-{cell}".replace(".", ""))
    rows = read_metrics(study / "tiny" / "sae" / cell / "metrics.jsonl")
    for metric in ("train/loss", "val/explained_variance"):
        local = {row["step"]: row[metric] for row in rows if metric in row}
        assert history_of(records, metric) == pytest.approx(local)
        assert local
    (run,) = [record.run for record in records if record.HasField("run")]
    config = values_of(run.config.update)
    assert (config["block"], config["t"], config["conditioning"]) == ("mid", 1.0, "cond")
    assert run.run_group == "tiny"
    summary = {}
    for record in records:
        if record.HasField("summary"):
            summary |= values_of(record.summary.update)
    (composition,) = load_results(
        study / "tiny" / "evaluation" / "composition" / cell / "results.json"
    )
    assert summary.get("test/composition") == pytest.approx(composition.value)


def test_every_cell_is_a_wandb_run_of_one_group_with_its_coordinates_and_the_same_metric_names(
    study,
):
    coordinates, names = set(), []
    for t in ("100", "000"):
        for conditioning in ("cond", "uncond"):
            records = records_of(study / "tiny" / "wandb", f"tiny-mid-t{t}-{conditioning}-k4")
            (run,) = [record.run for record in records if record.HasField("run")]
            config = values_of(run.config.update)
            coordinates.add((config["block"], config["t"], config["conditioning"], config["k"]))
            assert (run.run_group, config["experiment"]) == ("tiny", "tiny")
            assert config["study"]["trainer"]["steps"] == 10
            logged = {
                name.partition(".")[0]
                for record in records
                for name in (*values_of(record.history.item), *values_of(record.summary.update))
            }
            assert {"concepts", "train/loss", "val/l0", "test/composition"} <= logged
            names.append(logged)
    assert coordinates == {
        ("mid", t, branch, 4) for t in (1.0, 0.0) for branch in ("cond", "uncond")
    }
    assert all(other == names[0] for other in names)


def test_a_second_run_finds_everything_finished_and_changes_nothing(study):
    before = {
        path: path.stat().st_mtime_ns
        for path in (study / "tiny").rglob("*")
        if path.suffix in (".json", ".html")
    }
    done = diffusae("run", "debug=tiny", *CELLS, "logger.mode=offline", outputs=study)
    assert "4 of 4 cells are finished" in done.stdout
    after = {path: path.stat().st_mtime_ns for path in before}
    changed = [
        path.name for path in before if before[path] != after[path] and "logs" not in path.parts
    ]
    assert changed == []


# `make test-faults` kills at random; collections and trainings are killed in tests of their own
@pytest.mark.slow
def test_a_run_killed_at_any_place_goes_on_and_ends_with_the_same_numbers(study, tmp_path):
    outputs = tmp_path / "killed"
    for sign in ("activations/groups/000001.json", "sae/mid-t1.00-cond-k4/run.json", "evaluation"):
        process = command.Started("run", "debug=tiny", *CELLS, f"paths.outputs={outputs}")
        deadline = time.monotonic() + 200
        while (
            not (outputs / "tiny" / sign).exists()
            and time.monotonic() < deadline
            and process.poll() is None
        ):
            time.sleep(0.02)
        process.kill()
        process.ended()
        assert (outputs / "tiny" / sign).exists()
    diffusae("run", "debug=tiny", *CELLS, outputs=outputs)
    assert results_of(outputs) == results_of(study)
    one, other = (
        load_sae(root / "tiny" / "sae" / "mid-t0.00-uncond-k4")[0] for root in (outputs, study)
    )
    np.testing.assert_array_equal(one.W_dec.detach().numpy(), other.W_dec.detach().numpy())


def test_another_configuration_in_place_is_refused_with_its_difference(study):
    done = diffusae(
        "train", "debug=tiny", "timestep=early", "sae.lr=0.5", *CELLS, outputs=study, check=False
    )
    assert done.returncode == 2
    assert "sae.lr: 0.002 -> 0.5" in done.stderr
    assert "Traceback" not in done.stderr
    done = diffusae(
        "collect", "debug=tiny", "model.guidance=9.0", *CELLS, outputs=study, check=False
    )
    assert done.returncode == 2
    assert "model.guidance: 4.0 -> 9.0" in done.stderr


def test_a_damaged_shard_is_named_and_collect_repairs_it(study):
    shard = study / "tiny" / "activations" / "mid" / "t1.00" / "cond" / "shard-000000.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    done = diffusae(
        "train", "debug=tiny", "timestep=early", "sae.tag=again", *CELLS, outputs=study, check=False
    )
    assert done.returncode == 2
    assert "mid/t1.00/cond/shard-000000.tar: size" in done.stderr
    diffusae("collect", "debug=tiny", *CELLS, outputs=study)
    assert shard.read_bytes() == whole


def test_a_second_process_on_the_directory_is_refused(study):
    from diffusae.runs.lock import directory_lock

    with directory_lock(study / "tiny"):
        done = diffusae("run", "debug=tiny", *CELLS, outputs=study, check=False)
    assert done.returncode == 2
    assert f"process {os.getpid()}" in done.stderr


def table_of(done: subprocess.CompletedProcess[str]) -> list[list[str]]:
    """The body of the table at the end: the cells of each line, without the seconds."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]
    return [[*line[:-2], line[-1]] for line in cells]


def test_a_multirun_ends_with_every_job_and_retries_only_what_failed(study):
    from diffusae.runs.lock import directory_lock

    grid = ["timestep=early", "block=mid", "conditioning=cond", "sae.tag=${sae.k}", "sae.k=2,3,900"]
    sae = study / "tiny" / "sae"
    with directory_lock(sae / "mid-t1.00-cond-2"):
        done = diffusae("train", "-m", "debug=tiny", *grid, *CELLS, outputs=study, check=False)
    assert done.returncode == 2
    assert "2 of 3 jobs failed (1 done, 2 failed)" in done.stderr
    first, *others = table_of(done)
    assert first[:3] == ["mid-t1.00-cond-2", "sae.k=2", "failed"]
    assert f"is in use by process {os.getpid()} on " in first[3]
    assert others == [
        ["mid-t1.00-cond-3", "sae.k=3", "done", ""],
        ["mid-t1.00-cond-900", "sae.k=900", "failed", "k=900 exceeds d_sae=64; lower sae.k"],
    ]
    assert "Traceback" not in done.stderr
    weights = sae / "mid-t1.00-cond-3" / "sae.safetensors"
    written = weights.stat().st_mtime_ns
    done = diffusae("train", "-m", "debug=tiny", *grid, *CELLS, outputs=study, check=False)
    assert [row[2] for row in table_of(done)] == ["done", "skipped", "failed"]
    assert done.returncode == 2
    assert weights.stat().st_mtime_ns == written
    assert not list((study / "tiny" / "logs").glob(".outcomes*"))


def test_a_multirun_in_which_nothing_fails_ends_with_zero(study):
    grid = ["timestep=early,final", "block=mid", "conditioning=cond,uncond"]
    done = diffusae("train", "-m", "debug=tiny", *grid, *CELLS, outputs=study)
    assert [(row[0], row[-2], row[-1]) for row in table_of(done)] == [
        (f"mid-t{t}-{conditioning}-k4", "skipped", "finished already")
        for t in ("1.00", "0.00")
        for conditioning in ("cond", "uncond")
    ]


# eighteen jobs; its file is composed in conf/test_sweeps, and a multirun ends in its table above
@pytest.mark.slow
def test_a_sweep_file_ends_in_the_same_table(study):
    done = diffusae(
        "train", "-m", "debug=tiny", "+sweeps=timestep_block", *CELLS, outputs=study, check=False
    )
    assert done.returncode == 2
    outcomes = {row[0]: row[2] for row in table_of(done)}
    assert len(outcomes) == 18
    assert {cell for cell, outcome in outcomes.items() if outcome == "skipped"} == {
        f"mid-t{t}-{conditioning}-k4"
        for t in ("1.00", "0.00")
        for conditioning in ("cond", "uncond")
    }
    assert set(outcomes.values()) == {"skipped", "failed"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trane"], "unknown stage 'trane'. Did you mean 'train'?"),
        (["train", "block=side"], "unknown option of block: 'side'; known: down, down_inner, mid"),
        (["train", "sae.kk=3"], "valid names under sae"),
        (["train", "model=sd99"], "unknown option of model: 'sd99'; known: aura_flow, chroma"),
        (["train"], "run `diffusae collect`"),
    ],
)
def test_a_mistake_gets_one_message_with_the_valid_names(arguments, message, tmp_path):
    done = diffusae(*arguments, outputs=tmp_path, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
