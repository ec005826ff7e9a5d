"""`diffusae dashboard` on results made by hand: offline into a file and a run, online by a stand-in
for W&B.
"""

import json
import logging
import os
import shutil
import time

import pytest
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from composing import compose
from diffusae.errors import UserError
from diffusae.evaluation.result import Estimate, Result, save_results
from diffusae.runs import wandb_save
from diffusae.runs.record import run_record
from diffusae.stages.dashboard import dashboard
from diffusae.study.study import Study
from stages.evaluated_interventions import place_spatial
from wandb_records import history_of, records_of, values_of


@pytest.fixture(autouse=True)
def sealed(monkeypatch, tmp_path):
    """No key and no setting of the machine's own user."""
    for name in [name for name in os.environ if name.startswith("WANDB_")] + ["NETRC"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def composed(outputs, *overrides: str):
    given = [f"paths.outputs={outputs}", "name=mini", "logger.timeout_s=200", *overrides]
    return compose("dashboard", overrides=given)


def evaluated(outputs, *, t: float, value: float, tag: str = "k10") -> None:
    study = Study(composed(outputs, f"timestep.t={t}", f"sae.tag={tag}"))
    directory = study.evaluation("composition")
    directory.mkdir(parents=True)
    estimate = Estimate(value=value, ci95=(value - 0.1, value + 0.1), n=40)
    row = Result("composition", estimate, True, "IoU", study.cell.coordinates())
    with run_record(directory, stage="evaluate", config={}, determines={}, parents={}, seed=0):
        save_results(directory / "results.json", [row])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("evaluated")
    evaluated(outputs, t=1.0, value=0.25)
    evaluated(outputs, t=0.0, value=0.75)
    evaluated(outputs, t=0.0, value=0.5, tag="other")
    return outputs


@pytest.fixture
def outputs(made, tmp_path):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_without_a_key_the_specifications_are_a_file_and_the_overview_an_offline_run(
    outputs, caplog
):
    caplog.set_level(logging.INFO)
    assert dashboard(composed(outputs))
    path = outputs / "mini" / "dashboard" / "wandb.json"
    written = json.loads(path.read_text())
    assert set(written) == {"overview", "saved", "chart", "workspace", "report"}
    assert written["saved"] is None
    assert (
        written["workspace"]["displayName"] == written["report"]["displayName"] == "diffusae mini"
    )
    assert written["workspace"]["project"] == "diffusae"
    assert str(path) in caplog.text
    assert "wandb sync" in caplog.text and "logger.mode=online" in caplog.text
    assert (
        "not shown: explained_variance, cohesion, cohesion_text_encoder, spatial_success"
        in caplog.text
    )
    records = records_of(outputs / "mini" / "wandb", written["overview"])
    assert history_of(records, "over_t/composition/mid cond") == {0: 0.25, 1: 0.75}
    assert history_of(records, "t") == {0: 1.0, 1: 0.0}
    (run,) = [record.run for record in records if record.HasField("run")]
    assert run.run_group == "mini"
    assert values_of(run.config.update)["overview"] == written["overview"]
    last = values_of([record.history.item for record in records if record.HasField("history")][-1])
    assert last["grid/composition.nrows"] == 2
    assert last["heatmap/composition.captions"] == ["Composition: IoU"]


def test_interventions_are_in_the_grid_have_their_table_and_the_pictures_of_those_that_kept_some(
    outputs,
):
    study = Study(composed(outputs))
    outcomes = {"no_edit": [0.0] * 8, "concepts": [1.0] * 8, "random_latent": [0.0] * 8}
    place_spatial(study, outcomes, t=1.0)
    place_spatial(study, outcomes, t=0.0, tag="other")
    assert dashboard(composed(outputs))
    written = json.loads((outputs / "mini" / "dashboard" / "wandb.json").read_text())
    records = records_of(outputs / "mini" / "wandb", written["overview"])
    last = values_of([record.history.item for record in records if record.HasField("history")][-1])
    assert last["three_stages.nrows"] == 3
    assert last["three_stages/figure.captions"] == [
        "Interventions by window: success",
        "Interventions by window: change",
    ]
    assert last["grid/spatial_success.nrows"] == 1
    shown = json.dumps(written["workspace"])
    assert "before_after/spatial" in shown
    assert "before_after/global" not in shown


def test_curves_over_t_lie_beside_the_cells_and_are_no_cell(outputs):
    directory = outputs / "mini" / "evaluation" / "emergence" / "mid-cond-k10"
    with run_record(directory, stage="emergence", config={}, determines={}, parents={}, seed=0):
        cell = {"model": "miniature", "block": "mid", "conditioning": "cond"}
        save_results(
            directory / "results.json",
            [Result("emergence", Estimate(0.5, None, 3), True, "t", cell)],
        )
    assert dashboard(composed(outputs, "logger.mode=disabled"))


def test_the_same_results_are_shown_once(outputs):
    assert dashboard(composed(outputs, "logger.mode=disabled"))
    assert not dashboard(composed(outputs, "logger.mode=disabled"))
    evaluated(outputs, t=0.5, value=0.5)
    assert dashboard(composed(outputs, "logger.mode=disabled"))


def test_without_results_of_this_tag_the_remedy_is_told(outputs):
    with pytest.raises(
        UserError, match=r"no result of composition, .* with sae.tag=k7; run `diffusae evaluate`"
    ):
        dashboard(composed(outputs, "sae.tag=k7"))


FAKE = """
class Run:
    step = 0
    summary = {}
    def log(self, metrics, step): pass
    def finish(self, exit_code): pass
class Settings:
    def __init__(self, **values): pass
def Table(**values): return values
def Image(*values, **more): return values
def init(mode, **values): return Run()
"""


@pytest.fixture
def online(tmp_path, monkeypatch):
    """A key, a package `wandb` for the mirror's process that takes everything, and views that are
    kept here.
    """
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "wandb.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setattr(wandb_save, "_own_entity", lambda: "me")
    kept = {"charts": []}
    monkeypatch.setattr(
        wandb_save,
        "_keep_chart",
        lambda entity, chart: kept["charts"].append((entity, chart["name"])),
    )
    for kind in (ws.Workspace, wr.Report):
        monkeypatch.setattr(
            kind, "save", lambda self: kept.setdefault(type(self).__name__, self.entity)
        )
        monkeypatch.setattr(kind, "url", property(lambda self: f"https://w/{type(self).__name__}"))
    return kept


def test_with_a_key_both_are_saved_under_its_entity_and_their_addresses_told(
    outputs, online, caplog
):
    caplog.set_level(logging.INFO)
    assert dashboard(composed(outputs))
    assert online == {"charts": [("me", "diffusae-heatmap")], "Workspace": "me", "Report": "me"}
    written = json.loads((outputs / "mini" / "dashboard" / "wandb.json").read_text())
    assert written["saved"] == {"workspace": "https://w/Workspace", "report": "https://w/Report"}
    assert "https://w/Workspace, https://w/Report" in caplog.text
    assert not dashboard(composed(outputs))


@pytest.mark.parametrize("fate", ["hang", "refuse"])
def test_where_saving_hangs_or_is_refused_the_file_is_written_and_tried_again(
    outputs, online, monkeypatch, caplog, fate
):
    def fail(self):
        if fate == "refuse":
            raise RuntimeError("over quota")
        time.sleep(60)

    monkeypatch.setattr(wr.Report, "save", fail)
    begun = time.monotonic()
    assert dashboard(
        composed(outputs, "logger.timeout_s=10" if fate == "hang" else "logger.timeout_s=100")
    )
    assert time.monotonic() - begun < 40
    said = {"hang": "no answer after 10 s", "refuse": "over quota"}[fate]
    assert f"W&B did not save the dashboard: {said}" in caplog.text.replace("RuntimeError('", "")
    assert json.loads((outputs / "mini" / "dashboard" / "wandb.json").read_text())["saved"] is None
    monkeypatch.setattr(wr.Report, "save", lambda self: None)
    assert dashboard(composed(outputs))
