"""How guidance runs in a model of the user's own, before it is loaded."""

import json
from pathlib import Path

import pytest

from composing import compose
from diffusae.backbone.settings import ModelSettings
from diffusae.errors import UserError
from diffusae.study.model import check_hookpoints, describe_model
from diffusae.study.study import Study

CAPTIONS = ("prompts=file", "prompts.path=captions.txt", "model.hookpoints.mid=1", "model=custom")
BOTH = "grid.conditionings=[cond,uncond]"


def study(*overrides: str) -> Study:
    return Study(compose("collect", overrides=[*CAPTIONS, "grid.blocks=[mid]", *overrides]))


def folder(path: Path, pipeline: str, **config: object) -> str:
    (path / "model_index.json").write_text(json.dumps({"_class_name": pipeline, **config}))
    return f"model.source={path}"


@pytest.mark.parametrize(
    ("pipeline", "config", "layout"),
    [
        ("QwenImagePipeline", {}, "two_passes"),
        ("ZImagePipeline", {}, "cond_first"),
        ("ChromaPipeline", {}, "guided_passes"),
        ("Flux2KleinPipeline", {"is_distilled": True}, "none"),
        ("FluxFillPipeline", {}, "none"),
        ("PixArtSigmaPipeline", {}, "one_batch"),
    ],
)
def test_a_folder_says_how_guidance_runs(
    tmp_path: Path, pipeline: str, config: dict[str, object], layout: str
) -> None:
    source = folder(tmp_path, pipeline, **config)
    assert study(source).layout == layout
    assert study(source, "model.guidance_layout=two_passes").layout == "two_passes"


def test_a_folder_with_true_guidance_has_uncond_and_one_without_has_none(tmp_path: Path) -> None:
    source = folder(tmp_path, "QwenImagePipeline")
    study(source, BOTH, "model.guidance=1.0", "model.true_guidance=4.0").check()
    with pytest.raises(UserError, match=r"custom runs without.*model\.true_guidance above 1"):
        study(source, BOTH, "model.guidance=4.0").check()


def test_a_repository_says_it_when_it_is_read(tmp_path: Path) -> None:
    """Nothing is refused before that for a layout that is not known."""
    source = ("model.source=Qwen/Qwen-Image", "model.architecture=qwen_image")
    wrong = study(*source, BOTH, "model.guidance=4.0")
    right = study(*source, BOTH, "model.guidance=1.0", "model.true_guidance=4.0")
    for one in (wrong, right):
        assert one.layout is None
        one.check()
    check_hookpoints(right, describe_model(ModelSettings.of(right.cfg)))
    with pytest.raises(UserError, match=r"model\.true_guidance above 1"):
        check_hookpoints(wrong, describe_model(ModelSettings.of(wrong.cfg)))


def test_a_folder_with_a_damaged_index_is_named(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(UserError, match=r"model_index\.json"):
        study(f"model.source={tmp_path}", BOTH).check()
