"""Every experiment of the paper is planned for every model, without weights or captions: the same
command, another model=.
"""

import json
from pathlib import Path

import pytest

from composing import compose
from diffusae.backbone.describe import describe
from diffusae.backbone.hookpoints import find
from diffusae.backbone.passes import configured_branches
from diffusae.backbone.settings import ModelSettings
from diffusae.cli import config_directory
from diffusae.errors import UserError
from diffusae.planning import timing
from diffusae.stages import plan as stage

CONF = config_directory()
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("paper_*.yaml"))
MODELS = sorted(
    path.stem
    for path in (CONF / "model").glob("*.yaml")
    if path.stem not in ("_common", "custom") and not path.stem.startswith("miniature")
)
COND_ALONE = ["grid.conditionings=[cond]", "conditioning=cond"]


@pytest.fixture(autouse=True)
def _nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "load_model", None)
    monkeypatch.setattr(timing, "module_of", None)


def planned(directory: Path, *overrides: str) -> dict:
    stage.plan(compose("plan", [f"paths.outputs={directory}", *overrides]))
    (file,) = directory.rglob("plan.json")
    return json.loads(file.read_text())


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("name", MODELS)
def test_an_experiment_of_the_paper_is_planned(tmp_path: Path, name: str, experiment: str) -> None:
    asked = [f"experiment={experiment}", f"model={name}"]
    model = ModelSettings.of(compose("plan", asked))
    guided = (
        len(configured_branches(model.guidance_layout, model.guidance, model.true_guidance)) == 2
    )
    if not guided:
        with pytest.raises(UserError, match="uncond"):
            planned(tmp_path, *asked)
    plan = planned(tmp_path, *asked, *([] if guided else COND_ALONE))
    described = describe(model.source, architecture=model.architecture)
    streams = [stream for stream in plan["streams"] if stream["trained"]]
    assert len(streams) == 3 * 3 * (1 + guided)
    finest = [side // described.scale for side in (model.height, model.width)]
    for block, path in model.hookpoints.items():
        info = find(described.hookpoints, path)
        shapes = {
            (tuple(stream["grid"][-2:]), stream["d_in"])
            for stream in streams
            if stream["folder"].startswith(f"{block}-")
        }
        assert shapes == {(info.grid(*finest)[-2:], info.d_in)}
