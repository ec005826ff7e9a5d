"""The table of several gates."""

import json
from dataclasses import asdict

import pytest

from cli_trials import command
from diffusae.errors import UserError
from diffusae.miniature.gate_figures import GateFigure
from diffusae.miniature.gate_table import gate_table, read_gates

GOOD = [
    GateFigure("named objects found", 0.979, (0.968, 0.986), 986, bound=0.9),
    GateFigure("false objects, a picture", 0.05, (0.02, 0.08), 500, bound=0.1, at_least=False),
    GateFigure("tone as named", 1.0, None, 1),
]
BAD = [
    GateFigure("named objects found", 0.81, (0.773, 0.842), 500, bound=0.9),
    GateFigure("false objects, a picture", None, None, 0, bound=0.1, at_least=False),
]


def test_every_figure_has_interval_and_n_and_what_fails_says_so():
    lines = gate_table({"seed0": GOOD, "dit_seed0": BAD}).splitlines()
    assert lines == [
        "| figure | bound | seed0 | dit_seed0 |",
        "| --- | --- | --- | --- |",
        "| **the gate** |  | passed, 2 bounds | **fails** in 2 of 2 bounds |",
        "| named objects found | >= 0.90 | 0.979 [0.968, 0.986], n = 986"
        " | 0.810 [0.773, 0.842], n = 500, **fails** |",
        "| false objects, a picture | <= 0.10 | 0.050 [0.020, 0.080], n = 500"
        " | no data, n = 0, **fails** |",
        "| tone as named |  | 1.000, n = 1 | not measured |",
    ]


def written(directory, figures):
    directory.mkdir()
    rows = [asdict(figure) | {"passed": figure.passed} for figure in figures]
    (directory / "gate.json").write_text(json.dumps(rows))


def test_the_command_reads_gates_and_writes_the_table(monkeypatch, capsys, tmp_path):
    written(tmp_path / "seed0", GOOD)
    written(tmp_path / "dit_seed0", BAD)
    run = command(monkeypatch, capsys)
    gates = f"gates=[{tmp_path}/seed0,{tmp_path}/dit_seed0]"
    ended = run("miniature", "world=scenes", "part=table", gates, f"directory={tmp_path}/both")
    assert ended.code == 0
    table = (tmp_path / "both" / "gates.md").read_text()
    assert table in ended.out
    assert "**fails**" in table
    kept = json.loads((tmp_path / "both" / "gates.json").read_text())
    assert kept["seed0"][0] == asdict(GOOD[0]) | {"passed": True, "ci95": [0.968, 0.986]}
    assert [row["passed"] for row in kept["dit_seed0"]] == [False, False]


def test_a_folder_that_is_not_there_is_not_measured(monkeypatch, capsys, tmp_path):
    ended = command(monkeypatch, capsys)("miniature", "part=gate", f"directory={tmp_path}")
    assert ended.code != 0
    assert f"there is no pipeline folder {tmp_path}/folder to measure" in ended.err


def test_what_is_missing_or_damaged_is_said_once(tmp_path):
    with pytest.raises(UserError, match="must be directories of different names"):
        read_gates([])
    (tmp_path / "seed0").mkdir()
    (tmp_path / "seed1").mkdir()
    (tmp_path / "seed1" / "gate.json").write_text('[{"name": "tone as named"}]')
    with pytest.raises(UserError) as refused:
        read_gates([str(tmp_path / "seed0"), str(tmp_path / "seed1")])
    assert "seed0/gate.json is missing; measure the model again" in str(refused.value)
    assert "seed1/gate.json is damaged" in str(refused.value)
