"""All stages chained on the shipped miniature, at the smallest size, through the real command."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from diffusae.evaluation.result import load_results
from diffusae.runs.metric_log import read_metrics
from diffusae.sae.storage import load_sae
from wandb_records import history_of, records_of, values_of

CELLS = ["grid.timesteps=[1.0,0.0]", "grid.blocks=[mid]"]


def diffusae(*arguments: str, outputs: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "diffusae", *arguments, f"paths.outputs={outputs}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def results_of(outputs: Path) -> dict[str, list]:
    found = sorted(outputs.rglob("results.json"))
    return {str(path.relative_to(outputs)): json.loads(path.read_text()) for path in found}


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
        "annotations/masks.safetensors",
        f"sae/{cell}/sae.safetensors",
        f"sae/{cell}/metrics.jsonl",
        f"concepts/{cell}/dictionary.parquet",
        f"evaluation/composition/{cell}/results.json",
        f"evaluation/reconstruction/{cell}/results.json",
        "report/index.html",
    ):
        assert (root / name).is_file(), name
    assert not list(root.rglob("*.partial"))
    assert all(json.loads(path.read_text())["status"] == "finished" for path in root.rglob("run.json"))


def test_every_figure_has_n_an_interval_and_a_baseline(study):
    rows = [row for path in study.rglob("results.json") for row in load_results(path)]
    assert {row.metric for row in rows} >= {"composition", "explained_variance", "dead_fraction", "l0"}
    for row in rows:
        if row.estimate.n > 1:
            assert row.estimate.ci95 is not None
            assert row.estimate.value is not None
            assert row.estimate.ci95[0] <= row.estimate.value <= row.estimate.ci95[1]
        assert row.baselines


def test_the_saved_autoencoder_keeps_k_latents_active(study):
    sae, metadata = load_sae(study / "tiny" / "sae" / "mid-t0.00-cond-k4")
    assert metadata["cell"] == {"model": "miniature", "block": "mid", "t": 0.0, "conditioning": "cond"}
    import torch

    codes = sae.encode(torch.randn(10, sae.d_in))
    assert codes.values.shape == (10, 4)


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
        assert set(row.baselines) == {"cross_attention", "noun_probe", "any_object_probe", "flat_curve"}
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
    assert objects["iou"].mean() == pytest.approx(row.value)
    for name in ("cross_attention", "noun_probe", "any_object_probe"):
        assert objects[name].mean() == pytest.approx(row.baselines[name].value)


def test_metrics_of_training_and_validation_are_logged(study):
    rows = read_metrics(study / "tiny" / "sae" / "mid-t1.00-cond-k4" / "metrics.jsonl")
    names = {name for row in rows for name in row}
    assert {"train/loss", "val/explained_variance", "val/l0", "val/dead_fraction", "val/fvu"} <= names


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
    (composition,) = load_results(study / "tiny" / "evaluation" / "composition" / cell / "results.json")
    assert summary.get("test/composition") == pytest.approx(composition.value)


def test_a_second_run_finds_everything_finished_and_changes_nothing(study):
    before = {
        path: path.stat().st_mtime_ns
        for path in (study / "tiny").rglob("*")
        if path.suffix in (".json", ".html")
    }
    done = diffusae("run", "debug=tiny", *CELLS, "logger.mode=offline", outputs=study)
    assert "4 of 4 cells are finished" in done.stdout
    after = {path: path.stat().st_mtime_ns for path in before}
    changed = [path.name for path in before if before[path] != after[path] and "logs" not in path.parts]
    assert changed == []


def test_a_run_killed_at_any_place_goes_on_and_ends_with_the_same_numbers(study, tmp_path):
    outputs = tmp_path / "killed"
    command = [sys.executable, "-m", "diffusae", "run", "debug=tiny", *CELLS, f"paths.outputs={outputs}"]
    for sign in ("activations/groups/000001.json", "sae/mid-t1.00-cond-k4/run.json", "evaluation"):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + 200
        while (
            not (outputs / "tiny" / sign).exists() and time.monotonic() < deadline and process.poll() is None
        ):
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert (outputs / "tiny" / sign).exists()
    diffusae("run", "debug=tiny", *CELLS, outputs=outputs)
    assert results_of(outputs) == results_of(study)
    one, other = (load_sae(root / "tiny" / "sae" / "mid-t0.00-uncond-k4")[0] for root in (outputs, study))
    np.testing.assert_array_equal(one.W_dec.detach().numpy(), other.W_dec.detach().numpy())


def test_another_configuration_in_place_is_refused_with_its_difference(study):
    done = diffusae("train", "debug=tiny", "timestep=early", "sae.lr=0.5", *CELLS, outputs=study, check=False)
    assert done.returncode == 2
    assert "sae.lr: 0.002 -> 0.5" in done.stderr
    assert "Traceback" not in done.stderr
    done = diffusae("collect", "debug=tiny", "model.guidance=9.0", *CELLS, outputs=study, check=False)
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


def test_a_multirun_tells_every_failure_and_carries_the_others_out(study):
    grid = ["timestep=early", "block=mid", "conditioning=cond", "sae.tag=${sae.k}", "sae.k=2,900"]
    done = diffusae("train", "-m", "debug=tiny", *grid, *CELLS, outputs=study, check=False)
    assert done.returncode == 2
    assert "1 of 2 jobs failed" in done.stderr
    assert "k=900 exceeds d_sae=64; lower sae.k" in done.stderr
    assert (study / "tiny" / "sae" / "mid-t1.00-cond-2" / "sae.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trane"], "unknown stage 'trane'. Did you mean 'train'?"),
        (["train", "block=side"], "Available options in 'block'"),
        (["train", "sae.kk=3"], "valid names under sae"),
        (["train", "model=sd99"], "Available options in 'model'"),
        (["train"], "run `diffusae collect`"),
    ],
)
def test_a_mistake_gets_one_message_with_the_valid_names(arguments, message, tmp_path):
    done = diffusae(*arguments, outputs=tmp_path, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
