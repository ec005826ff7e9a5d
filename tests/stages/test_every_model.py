"""Every experiment of the paper is planned for every model, without weights or captions: the same
command, another model=.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from composing import compose
from diffusae.backbone.describe import ARCHITECTURES
from diffusae.backbone.hookpoints import find
from diffusae.backbone.passes import configured_branches
from diffusae.backbone.settings import ModelSettings
from diffusae.cli import config_directory
from diffusae.errors import UserError
from diffusae.planning import timing
from diffusae.planning.alternatives import with_captions
from diffusae.planning.estimate import estimate
from diffusae.planning.rates import PlanSettings
from diffusae.stages import plan as stage
from diffusae.study.model import check_hookpoints, describe_model
from diffusae.study.study import Study

CONF = config_directory()
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("paper_*.yaml"))
MODELS = sorted(
    path.stem
    for path in (CONF / "model").glob("*.yaml")
    if path.stem not in ("_common", "custom", "wan21", "ltx")  # videos, which no stage makes
    and not path.stem.startswith("miniature")
)


FEW = ["prompts.counts={train: 32, validation: 4, dictionary: 8, tune: 4, test: 4}"]


def one_of_every_family() -> list[str]:
    """The first model of every class of denoisers."""
    kinds: dict[str, str] = {}
    for name in MODELS:
        parts = json.loads((ARCHITECTURES / f"{name}.json").read_text())
        kinds.setdefault(parts["denoiser"]["_class_name"], name)
    return list(kinds.values())


def guided(name: str) -> bool:
    """Whether the model runs an uncond branch with the settings of its file."""
    own: Any = OmegaConf.load(CONF / "model" / f"{name}.yaml")
    branches = configured_branches(own.guidance_layout, own.guidance, own.get("true_guidance"))
    return "uncond" in branches


def composed(directory: Path, name: str, experiment: str, *overrides: str) -> DictConfig:
    """A plan of the model's branches."""
    alone = [] if guided(name) else ["grid.conditionings=[cond]", "conditioning=cond"]
    asked = [f"experiment={experiment}", f"model={name}", f"paths.outputs={directory}"]
    return compose("plan", [*asked, *alone, *overrides])


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("name", one_of_every_family())
def test_an_experiment_of_the_paper_fits_every_family(
    tmp_path: Path, name: str, experiment: str
) -> None:
    cfg = composed(tmp_path, name, experiment, *FEW)
    study, _ = with_captions(Study(cfg))
    study.check(PlanSettings)
    model = ModelSettings.of(cfg)
    described = describe_model(model)
    check_hookpoints(study, described)
    trained = estimate(study, described).trained
    assert len(trained) == 3 * 3 * (1 + guided(name))
    finest = [side // described.scale for side in (model.height, model.width)]
    for block, path in model.hookpoints.items():
        info = find(described.hookpoints, path or 0)
        streams = [one.stream for one in trained if one.stream.block == block]
        shapes = {(stream.grid[-2:], stream.d_in) for stream in streams}
        assert shapes == {(info.grid(*finest)[-2:], info.d_in)}


def test_a_model_without_guidance_says_so_where_uncond_is_asked_for(tmp_path: Path) -> None:
    asked = ["experiment=paper_sd14", "model=sd35_large_turbo", f"paths.outputs={tmp_path}"]
    with pytest.raises(UserError, match="uncond"):
        Study(compose("plan", asked)).check(PlanSettings)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("name", MODELS)
def test_an_experiment_of_the_paper_is_planned_at_its_own_size(
    tmp_path: Path, name: str, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `diffusae plan experiment=... model=...` does it, and no model is loaded."""
    monkeypatch.setattr(timing, "load_model", None)
    monkeypatch.setattr(timing, "module_of", None)
    stage.plan(composed(tmp_path, name, experiment))
    (file,) = tmp_path.rglob("plan.json")
    assert json.loads(file.read_text())["streams"]
