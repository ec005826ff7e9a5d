"""Every W&B sweep file: turned into commands by W&B's own agent code, then composed by Hydra."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from wandb.sdk.launch.sweeps.utils import (
    create_sweep_command,
    create_sweep_command_args,
    load_sweep_config,
)

from composing import compose
from diffusae.cli import STAGES, config_directory
from diffusae.study.study import Study

FOLDER = config_directory().parent / "sweeps"
FILES = sorted((FOLDER / "wandb").glob("*.yaml"))


def grid_of(sweep: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs of `method: grid`, in their order."""
    names = list(sweep["parameters"])
    return [
        dict(zip(names, values, strict=True))
        for values in product(*(sweep["parameters"][name]["values"] for name in names))
    ]


def command_of(sweep: dict[str, Any], values: dict[str, Any]) -> list[str]:
    """The command line that W&B's agent makes of one run."""
    given = {name: {"value": value} for name, value in values.items()}
    parts = create_sweep_command_args({"args": given})
    parts["program"] = [sweep["program"]]
    words: list[str] = []
    for word in create_sweep_command(list(sweep["command"])):
        words += parts[word[2:-1]] if word.startswith("${") and word.endswith("}") else [word]
    return words


def test_every_hydra_sweep_has_a_wandb_sweep():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_sweep_file_is_taken_by_wandb_and_names_its_question_and_command(path: Path):
    sweep = load_sweep_config(str(path))
    assert sweep is not None
    assert sweep["method"] == "grid"
    text = path.read_text()
    for part in ("# Question:", "# Hypothesis", f"# Command: wandb sweep sweeps/wandb/{path.name}"):
        assert part in text


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_run_of_a_sweep_is_a_command_that_composes_to_a_cell_of_its_own(path: Path):
    sweep = yaml.safe_load(path.read_text())
    cells = set()
    for values in grid_of(sweep):
        program, stage, *overrides = command_of(sweep, values)
        assert program == "diffusae"
        assert stage in STAGES
        study = Study(compose(stage, overrides=overrides))
        study.check()
        assert study.cfg.logger.group == f"miniature-{path.stem}"
        cells.add(study.cell_name)
    assert len(cells) == len(grid_of(sweep))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_hydra_sweep_of_the_same_name_has_the_same_grid_and_group(path: Path):
    sweep = yaml.safe_load(path.read_text())
    twin = yaml.safe_load((FOLDER / path.name).read_text())
    params = twin["hydra"]["sweeper"]["params"]
    parser = OverridesParser.create()
    overrides = parser.parse_overrides([f"{name}={values}" for name, values in params.items()])
    swept = {one.key_or_group: list(one.sweep_string_iterator()) for one in overrides}
    given = sweep["parameters"].items()
    assert swept == {name: list(map(str, parameter["values"])) for name, parameter in given}
    assert f"logger.group={twin['logger']['group']}" in sweep["command"]
