"""The hookpoints of a study: sites, streams, and what older settings mean."""

from typing import Any

import pytest

from composing import compose
from diffusae.backbone.settings import ModelSettings
from diffusae.errors import UserError
from diffusae.study.model import check_hookpoints, describe_model
from diffusae.study.streams import streams_of
from diffusae.study.study import Study

SD3 = ("model=sd3", "prompts=file", "prompts.path=captions.txt")


def study(*overrides: str) -> Study:
    return Study(compose("collect", overrides=list(overrides)))


def test_the_hookpoints_are_those_of_the_model_without_blocks_that_are_left_out() -> None:
    made = study("model=custom", "model.source=x", "model.hookpoints.mid=7")
    assert made.hookpoints == {"mid": 7}
    assert study(*SD3).hookpoints["mid"] == "transformer_blocks.11"
    assert not study(*SD3).reads_text("mid")


def test_stream_text_holds_for_every_hookpoint_that_names_no_stream() -> None:
    made = study(*SD3, "stream=text", "model.hookpoints.up=17:mlp_in@picture")
    assert made.hookpoints == {
        "down": "transformer_blocks.5@text",
        "mid": "transformer_blocks.11@text",
        "up": "17:mlp_in",
    }
    assert made.reads_text("mid") and not made.reads_text("up")


def test_a_site_or_a_stream_is_part_of_the_signature_and_its_absence_is_not() -> None:
    plain, text = (study(*SD3, *more).model_determines() for more in ((), ("stream=text",)))
    assert plain["hookpoints"]["mid"] == "transformer_blocks.11"
    assert text["hookpoints"]["mid"] == "transformer_blocks.11@text"
    assert {**text, "hookpoints": None} == {**plain, "hookpoints": None}


def test_given_pictures_recorded_as_outputs_are_read_after_the_block() -> None:
    made = study(
        "collection=pictures_world", "collection.record=output",
        "model.hookpoints.up=up_blocks.0.attentions.0.transformer_blocks.0:mlp_out",
    )  # fmt: skip
    assert made.hookpoints["mid"] == "mid_block.attentions.0:after"
    assert made.hookpoints["up"].endswith("transformer_blocks.0:mlp_out")  # type: ignore[union-attr]
    assert made.model_determines()["hookpoints"]["mid"] == "mid_block.attentions.0"  # as ever


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model.hookpoints.mid=transformer_blocks.1:mlp"],
            r"block mid: unknown site in hookpoint.*'mlp'",
        ),
        (["stream=words"], "stream"),
        (
            ["stream=text", "activations.store_training=false"],
            r"reads the text's tokens.*activations.store_training=true",
        ),
        (["stream=text", "collection=pictures_world"], "set collection=generation"),
    ],
)
def test_what_cannot_be_recorded_is_refused_before_anything_loads(overrides, message) -> None:
    with pytest.raises(UserError, match=message):
        study(*SD3, *overrides).check()


@pytest.mark.parametrize(
    ("overrides", "hookpoint", "grid"),
    [
        (SD3, "transformer_blocks.11@text", (1, 77 + 256)),  # CLIP's and T5's
        (("model=flux_dev", *SD3[1:]), "transformer_blocks.18@text", (1, 512)),
        (
            ("model=flux_dev", "model.text_tokens=64", *SD3[1:]),
            "transformer_blocks.18@text",
            (1, 64),
        ),
    ],
)
def test_a_text_stream_is_planned_with_the_tokens_of_a_padded_prompt(
    overrides: tuple[str, ...], hookpoint: str, grid: tuple[int, int]
) -> None:
    made = study(*overrides, "stream=text")
    description = describe_model(ModelSettings.of(made.cfg))
    check_hookpoints(made, description)
    streams = streams_of(made, description, lambda t: t, description.tokens)
    (stream,) = {one for one in streams if one.folder == "mid/t0.50/cond"}
    assert (stream.hookpoint, stream.grid, stream.of_tokens) == (hookpoint, grid, True)


def test_the_text_of_a_model_without_text_tokens_is_refused_by_name() -> None:
    made: Any = study("model=sd14", *SD3[1:], "stream=text")
    with pytest.raises(UserError, match=r"mid_block.attentions.0 .*holds no text tokens"):
        check_hookpoints(made, describe_model(ModelSettings.of(made.cfg)))
