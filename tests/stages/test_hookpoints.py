"""The list of blocks is the model's, before any weights are at hand."""

import re

import pytest

from composing import compose
from diffusae.backbone import load
from diffusae.errors import UserError
from diffusae.stages.hookpoints import hookpoints
from diffusae.stages.plan import plan


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_args, **_values):
        raise AssertionError("something was loaded")

    monkeypatch.setattr(load, "load_pipeline", refuse)
    monkeypatch.setattr(load.DiffusionPipeline, "download", refuse)
    monkeypatch.setattr(load.DiffusionPipeline, "load_config", refuse)


def composed(*overrides, stage="hookpoints"):
    return compose(stage, overrides=list(overrides))


def rows(out: str) -> list[list[str]]:
    return [line.split() for line in out.splitlines() if re.match(r"\s*\d+ ", line)]


def test_every_block_is_listed_with_place_width_grid_and_its_name(offline, capsys):
    hookpoints(composed("model=sd14"))
    out = capsys.readouterr().out
    assert [row[0] for row in rows(out)] == [str(place) for place in range(16)]
    assert [
        "5",
        "down_blocks.2.attentions.1",
        "Transformer2DModel",
        "1280",
        "16x16",
        "down",
    ] in rows(out)
    assert ["15", "mid_block.attentions.0", "Transformer2DModel", "1280", "8x8", "mid"] in rows(out)
    assert "guidance: one_batch, branches at these settings: cond, uncond" in out


def test_the_grid_follows_the_pictures_size_and_no_path_is_cut(offline, capsys):
    hookpoints(composed("model=flux_schnell", "model.width=512"))
    shown = rows(capsys.readouterr().out)
    assert len(shown) == 57
    assert shown[56] == [
        "56",
        "single_transformer_blocks.37",
        "FluxSingleTransformerBlock",
        "3072",
        "64x32",
    ]


def test_the_layers_of_every_text_encoder_are_named(offline, capsys):
    hookpoints(composed("model=sd3"))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["text_encoder", "text_0", "...", "text_11", "768", "77"] in lines
    assert ["text_encoder_2", "text2_0", "...", "text2_31", "1280", "77"] in lines
    assert ["text_encoder_3", "text3_0", "...", "text3_23", "4096", "256"] in lines


def test_the_miniature_is_read_from_its_folder(capsys):
    hookpoints(composed())
    named = {row[5]: row[1] for row in rows(capsys.readouterr().out) if len(row) == 6}
    assert named == dict(composed().model.hookpoints)


@pytest.mark.parametrize("model", ["sdxl", "sd3", "pixart_alpha"])
def test_a_study_is_planned_from_the_published_sizes(offline, tmp_path, capsys, model):
    plan(
        composed(
            f"model={model}",
            "debug=tiny",
            f"paths.outputs={tmp_path}",
            "plan.probe=false",
            stage="plan",
        )
    )
    width = {"sdxl": "1280", "sd3": "1536", "pixart_alpha": "1152"}[model]
    grid = "32x32" if model == "sdxl" else "64x64"
    shown = [
        line.split() for line in capsys.readouterr().out.splitlines() if "mid/t1.00/cond" in line
    ]
    assert shown[0][:3] == ["mid/t1.00/cond", grid, width]


def test_a_size_that_does_not_divide_into_positions_is_refused(offline, tmp_path):
    cfg = composed(
        "model=sd3",
        "model.height=1000",
        f"paths.outputs={tmp_path}",
        "plan.probe=false",
        stage="plan",
    )
    with pytest.raises(
        UserError, match=r"model.height=1000 is not a multiple of 16; give one, such as 992"
    ):
        plan(cfg)


def test_the_streams_and_sites_of_every_class_of_blocks_are_listed(offline, capsys):
    hookpoints(composed("model=flux_dev"))
    out = capsys.readouterr().out
    every = "update before after mlp_in mlp_out attn_out"
    assert re.search(rf"^ *FluxTransformerBlock +picture text +{every} *$", out, re.MULTILINE)
    single = r"^ *FluxSingleTransformerBlock +picture text +update before after *$"
    assert re.search(single, out, re.MULTILINE)
    hookpoints(composed("model=sdxl"))
    out = capsys.readouterr().out
    assert re.search(rf"^ *BasicTransformerBlock +picture +{every} *$", out, re.MULTILINE)
    assert "PATH.transformer_blocks.N" in out


def test_a_configured_site_stands_beside_its_block(offline, capsys):
    inner = "mid_block.attentions.0.transformer_blocks.0:mlp_in"
    hookpoints(
        composed("model=sd14", f"model.hookpoints.mid={inner}", "model.hookpoints.up=9:after")
    )
    named = [row[-1] for row in rows(capsys.readouterr().out)]
    assert {"down", "mid.0:mlp_in", "up:after"} <= set(named)
