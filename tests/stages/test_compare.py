"""`diffusae compare` on a folder of results that were written by hand."""

import json
from pathlib import Path

import pytest

from composing import compose
from diffusae.evaluation.result import Estimate, Result, save_results
from diffusae.report.compared import figures_below
from diffusae.runs.record import run_record
from diffusae.stages.compare import compare


def composed(directory: Path, *overrides: str):
    return compose("compare", overrides=["name=paper", f"paths.outputs={directory}", *overrides])


def write(
    directory: Path, metric: str, name: str, value: float | None, *, k: int, finished: bool = True
) -> None:
    block, t, conditioning = name.split("-")[:3]
    place = directory / "paper" / "evaluation" / metric / name
    cell = {"model": "sd14", "block": block, "t": float(t[1:]), "conditioning": conditioning}
    estimate = (
        Estimate(None) if value is None else Estimate(value, (value - 0.01, value + 0.01), 5000)
    )
    config = {"sae": {"k": k}}
    try:
        with run_record(
            place, stage="evaluate", config=config, determines={"cell": name}, parents={}, seed=0
        ):
            save_results(place / "results.json", [Result(metric, estimate, True, "ratio", cell)])
            if not finished:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass


@pytest.fixture
def outputs(tmp_path) -> Path:
    write(tmp_path, "explained_variance", "mid-t1.00-cond-k10", 0.57, k=10)
    write(tmp_path, "explained_variance", "mid-t1.00-cond-k20", 0.70, k=20)
    write(tmp_path, "spatial_success", "mid-t0.50-cond-k10", 0.30, k=10)
    write(tmp_path, "cohesion", "up-t0.00-cond-k10", None, k=10)
    write(tmp_path, "composition", "mid-t1.00-cond-k10", 0.9, k=10, finished=False)
    return tmp_path


def test_every_row_has_ours_theirs_and_the_difference_or_no_data(outputs, capsys):
    compare(composed(outputs))
    place = outputs / "paper" / "compare"
    lines = json.loads((place / "arxiv_2504_15473.json").read_text())
    compared = {(line["metric"], line["k"]): line for line in lines if line["ours"] is not None}
    assert set(compared) == {
        ("explained_variance", 10),
        ("explained_variance", 20),
        ("spatial_success", 10),
    }
    assert compared["explained_variance", 10]["difference"] == pytest.approx(0.57 - 0.564)
    assert compared["explained_variance", 10]["within"] is True
    assert compared["explained_variance", 20]["within"] is False
    assert compared["spatial_success", 10]["difference_ci95"] == pytest.approx([-0.06, -0.04])
    assert len(lines) == 97
    shown = capsys.readouterr().out
    assert shown.count("no data") == 94
    assert "0.560 ... 0.580" in shown
    assert "3 of 97 rows have data of ours" in (place / "arxiv_2504_15473.md").read_text()
    assert (place / "arxiv_2504_15473.csv").read_text().count("\n") == 98


def test_a_run_that_is_not_finished_is_left_out(outputs):
    assert "composition" not in {
        figure.result.metric for figure in figures_below(outputs / "paper")
    }


def test_an_empty_folder_is_all_no_data_and_said(tmp_path, caplog):
    compare(composed(tmp_path))
    assert "holds no results yet" in caplog.text
    lines = json.loads((tmp_path / "paper" / "compare" / "arxiv_2504_15473.json").read_text())
    assert {line["ours"] for line in lines} == {None}


def test_the_experiment_names_its_reference(tmp_path):
    cfg = composed(tmp_path, "experiment=paper_sd14")
    assert cfg.reference == "arxiv_2504_15473"
