"""Stages obey only the command line."""

import json
import logging
import os
import sys
import threading
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
from omegaconf import OmegaConf

from composing import compose
from diffusae.activations.local_copy import COPY_FILE
from diffusae.cli import main
from diffusae.errors import UserError
from diffusae.evaluation.settings import EmergenceSettings
from diffusae.files import digest_of, sha256_of, write_sealed
from diffusae.jobs import outcomes
from diffusae.jobs.outcomes import JobOutcome, OutcomeTable, print_outcomes
from diffusae.runs.record import read_record, run_record, state
from diffusae.stages.collect import collect
from diffusae.stages.train import train
from diffusae.study.study import Study
from diffusae.summaries.emergence import _summarise

SECRET = "s3cr3t-v4lue"


@cache
def composed(stage, *overrides):
    return compose(stage, overrides=["debug=tiny", "trainer.accelerator=cpu", *overrides])


def config(stage, outputs, *overrides, activations=None):
    cfg = deepcopy(composed(stage, *overrides))
    cfg.paths.outputs = str(outputs)
    if activations is not None:
        cfg.paths.activations = str(activations)
    return cfg


def test_no_stage_obeys_a_mirror_json(collection, tmp_path):
    root, _ = collection
    with run_record(root, stage="collect", config={}, determines={}, parents={}, seed=0):
        pass
    for shard in root.rglob("*.tar"):
        shard.unlink()
    url = f"pipe:touch {tmp_path}/PWNED; cat {{path}}"
    digest = digest_of((root / "manifest.json").read_bytes())
    value = {"url": url, "manifest": digest, "attempts": 1, "most_bytes": 1}
    value["url_sha256"] = digest_of(url.encode())
    (root / COPY_FILE).write_text(json.dumps(value))
    before = sorted(root.rglob("*.json"))
    for stage in (train, collect):
        with pytest.raises(UserError):
            stage(config(stage.__name__, tmp_path, activations=root))
    assert not (tmp_path / "PWNED").exists() and sorted(root.rglob("*.json")) == before


def test_a_link_in_an_unfinished_collection_is_refused_before_anything_is_written(tmp_path):
    root, outside = tmp_path / "activations", tmp_path / "outside"
    for path in (root, outside):
        path.mkdir()
    (root / "groups").symlink_to(outside)
    with pytest.raises(UserError, match="leads out of the collection"):
        collect(config("collect", tmp_path, activations=root))
    assert not any(outside.iterdir())


def test_an_interpolation_in_a_file_is_text(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    text = "${oc.env:HF_TOKEN}"
    values: dict[str, Any] = {"config": {"a": text}, "determines": {"a": text}}
    with run_record(tmp_path, stage="train", parents={}, seed=0, **values):
        pass
    record = read_record(tmp_path)
    assert record is not None and record.config["a"] == record.determines["a"] == text


@pytest.mark.parametrize("name", ["../victim", "/victim", "..", "a/../../victim", "..\\victim"])
def test_an_output_that_a_run_json_names_elsewhere_is_not_touched(tmp_path, name):
    run, victim = tmp_path / "run", tmp_path / "victim"
    victim.write_text("mine")
    os.utime(victim, ns=(10**18, 10**18))
    with run_record(run, stage="train", config={}, determines={}, parents={}, seed=0):
        pass
    record = json.loads((run / "run.json").read_text())
    record.pop("checksum")
    record["outputs"] = {name: {"size": 4, "mtime_ns": 1, "sha256": sha256_of(victim)}}
    write_sealed(run / "run.json", record)
    assert state(run, determines={}, parents={}) == "absent"  # damaged: the run is made again
    assert victim.stat().st_mtime_ns == 10**18


def test_an_output_that_is_a_link_leaves_the_file_that_it_leads_to_as_it_is(tmp_path):
    run, victim = tmp_path / "run", tmp_path / "victim"
    victim.write_text("mine")
    with run_record(run, stage="train", config={}, determines={}, parents={}, seed=0):
        (run / "a").write_text("mine")
    (run / "a").unlink()
    (run / "a").symlink_to(victim)
    os.utime(victim, ns=(10**18, 10**18))
    assert state(run, determines={}, parents={}) == "finished"
    assert victim.stat().st_mtime_ns == 10**18


def test_a_curve_that_a_run_json_names_stays_in_the_study(tmp_path):
    study = Study(config("report", tmp_path))
    for block, tag in (("mid", "/../../../x"), ("../mid", "k10"), ("/mid", "k10")):
        curve = (block, "cond", tag)
        with pytest.raises(UserError, match="which is no name"):
            _summarise(study, curve, {}, EmergenceSettings.of(study.cfg))
    assert not list(tmp_path.iterdir())


def test_what_hydra_writes_of_a_sweep_holds_no_secret(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(outcomes, "mask_output", lambda: None)
    command = f"activations.source=pipe:curl {SECRET} {{path}}"
    sweep = {"sweep": {"dir": str(tmp_path)}, "overrides": {"task": [command, "sae.k=4"]}}
    source = f"https://h/{{path}}?token={SECRET}"
    values = {"activations": {"source": source}, "hydra": {**sweep, "mode": None}}
    cfg = OmegaConf.create({**values, "name": "${hydra.sweep.dir}"})
    OmegaConf.save(cfg, tmp_path / "multirun.yaml")  # as Hydra's sweeper does
    OutcomeTable().on_job_start(cfg)
    written = OmegaConf.load(tmp_path / "multirun.yaml")
    assert SECRET not in (tmp_path / "multirun.yaml").read_text()
    assert written.hydra.overrides.task == ["activations.source=pipe:***", "sae.k=4"]
    assert written.name == str(tmp_path)
    assert cfg.hydra.overrides.task[0] == command  # the job itself gets the whole text
    failed = ("cell", "failed", f"https://me:{SECRET}@h", f"activations.source=pipe:{SECRET}")
    print_outcomes([JobOutcome(*failed)])
    assert SECRET not in capsys.readouterr().err


def test_a_source_with_a_token_is_refused_by_a_stage_before_anything_is_written(tmp_path):
    source = f"activations.source=https://me:{SECRET}@127.0.0.1:9/d"
    with pytest.raises(UserError, match="refused; take it out") as raised:
        collect(config("collect", tmp_path, source))
    assert SECRET not in str(raised.value)
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    "override",
    [
        "sae.sparsity._target_=diffusae.files.atomic_write_json",
        "prompts._target_=diffusae.sae.sparsity.TopK",
        "+sae.sparsity._partial_=true",
    ],
)
def test_a_study_with_a_foreign_part_is_refused(tmp_path, override):
    study = Study(config("train", tmp_path, override))

    def ask() -> None:
        study.check()
        study.prompts  # noqa: B018  (a property that builds)

    with pytest.raises(UserError, match="refused"):
        ask()


def test_a_message_of_the_command_holds_no_secret(monkeypatch, capsys):
    made, hooks = logging.getLogRecordFactory(), (sys.excepthook, threading.excepthook)
    words = ["diffusae", "train", f'activations.sourc="https://h/?token={SECRET}"']
    monkeypatch.setattr(sys, "argv", words)
    try:
        with pytest.raises(SystemExit):
            main()
    finally:
        logging.setLogRecordFactory(made)
        sys.excepthook, threading.excepthook = hooks
    printed = capsys.readouterr()
    assert "activations.sourc" in printed.err and SECRET not in printed.out + printed.err
