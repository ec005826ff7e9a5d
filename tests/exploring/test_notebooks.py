"""The notebooks run from their first cell to their last."""

import contextlib
import io
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from composing import compose
from diffusae.study.study import Study

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(path: Path, kind: str = "code") -> list[str]:
    notebook: Any = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


def commands(path: Path) -> list[list[str]]:
    """The words after `!diffusae` of every cell, with the settings of the first cell filled in."""
    first, *others = cells(path)
    space: dict[str, Any] = {}
    exec(compile(first, path.name, "exec"), space)
    lines = [source for source in others if source.startswith("!diffusae ")]
    return [shlex.split(line.replace("{settings}", space["settings"]))[1:] for line in lines]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_of_a_notebook_runs_on_a_finished_study(path, directory, tmp_path, monkeypatch):
    """In this process, without the commands; the slow test runs these too, in a kernel."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIFFUSAE_STUDY", str(directory))
    space: dict[str, Any] = {}
    for source in cells(path):
        if not source.startswith("!"):
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(source, path.name, "exec"), space)
    assert space["run"].picture.shape == (64, 64, 3)


def test_every_command_of_a_study_of_ones_own_composes_and_passes_the_checks():
    given = commands(ROOT / "notebooks" / "a_study_of_ones_own.ipynb")
    assert [stage for stage, *_ in given] == ["plan", "run"]
    for stage, *overrides in given:
        Study(compose(stage, overrides=overrides)).check()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_what_it_last_printed_and_explains_itself(path):
    notebook: Any = nbformat.read(path, as_version=4)
    assert not [cell for cell in notebook.cells if cell.get("outputs")]
    assert len(cells(path, "markdown")) >= 4
    assert not re.search(r"/home/|/work/|/tmp/", path.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_in_a_kernel_with_its_commands(path, directory, tmp_path, monkeypatch):
    from nbclient import NotebookClient

    command = tmp_path / "bin" / "diffusae"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m diffusae "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    own = path.stem == "a_study_of_ones_own"
    monkeypatch.setenv("DIFFUSAE_STUDY", "outputs/own" if own else str(directory))
    monkeypatch.setenv(
        "DIFFUSAE_SETTINGS",
        "model.steps=5 sae.d_sae=64 sae.k=4 sae.warmup_steps=0 sae.decay_steps=0 trainer.steps=40"
        " trainer.validate_every=20 metrics=[cohesion]",
    )
    notebook: Any = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=280, kernel_name="python3", resources=resources).execute()
    shown = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert any("image/png" in out.get("data", {}) for out in shown)
    assert any("text/html" in out.get("data", {}) for out in shown)
