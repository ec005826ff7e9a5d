"""A model's configuration is checked before anything is built from it."""

import json

import pytest

from diffusae.backbone.component_configs import check_sizes, on_meta, require_weights
from diffusae.errors import UserError
from tiny_pipeline import tiny_pipeline

UNET = "UNet2DConditionModel"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_layers": 10**9}, "num_layers=1000000000 must not be above 1000"),
        (
            {"transformer_layers_per_block": [1, 5000]},
            "transformer_layers_per_block=5000 must not be above 1000",
        ),
        ({"sample_size": 40_000_000}, "sample_size=40000000 must not be above 1024"),
        (
            {"cross_attention_dim": 10**400},
            "cross_attention_dim=a number of more than 20 digits must not be above 16777216",
        ),
        ({"block_out_channels": [1] * 2000}, "block_out_channels=2000 must not be above 1000"),
    ],
)
def test_numbers_that_no_model_has_are_refused(config, message):
    with pytest.raises(UserError, match=rf"here: {message}.*; copy the folder again"):
        check_sizes(config, "here")


def test_published_sizes_pass():
    check_sizes(
        {
            "num_layers": 57,
            "sample_size": 128,
            "pos_embed_max_size": 384,
            "joint_attention_dim": 4096,
        },
        "here",
    )


def test_values_that_make_no_model_are_told_with_the_class():
    with pytest.raises(UserError, match=rf"here makes no {UNET} \(.*\); copy the folder again"):
        on_meta({"_class_name": UNET, "block_out_channels": "no"}, "here")
    with pytest.raises(UserError, match=r"'DDIMScheduler'.*no model of the installed"):
        on_meta({"_class_name": "DDIMScheduler"}, "here")


def test_a_configuration_that_asks_for_more_numbers_than_the_weights_hold_is_refused(tmp_path):
    tiny_pipeline().unet.save_pretrained(tmp_path / "unet")
    require_weights(tmp_path, "unet")
    path = tmp_path / "unet/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"cross_attention_dim": 16_000_000}))
    with pytest.raises(
        UserError,
        match=r"unet/config.json asks for \d{10,} numbers, the weights beside it hold \d+",
    ):
        require_weights(tmp_path, "unet")
