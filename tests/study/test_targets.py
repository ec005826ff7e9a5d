"""The names that `sae.target` may take."""

import pytest

from diffusae.errors import UserError
from diffusae.study.targets import target_of, with_targets

HOOKPOINTS = {
    "early": "blocks.3:mlp_in",
    "early_out": "blocks.3:mlp_out@picture",
    "late": "blocks.9:mlp_in@text",
    "late_out": "blocks.9:mlp_out",
    "words_out": "blocks.9:mlp_out@text",
    "first": 0,
    "left_out": None,
}


def test_a_site_is_that_of_the_same_module_and_stream():
    assert target_of("mlp_out", "early", HOOKPOINTS) == "early_out"
    assert target_of("mlp_out", "late", HOOKPOINTS) == "words_out"


def test_a_block_or_a_text_layer_is_taken_by_its_name():
    assert target_of("first", "early", HOOKPOINTS) == "first"
    assert target_of("text_5", "text_2", HOOKPOINTS) == "text_5"


def test_targets_come_after_the_blocks_and_once():
    assert with_targets(["early", "late"], "first", HOOKPOINTS) == ["early", "late", "first"]
    assert with_targets(["early", "late"], None, HOOKPOINTS) == ["early", "late"]


@pytest.mark.parametrize(
    ("target", "block", "message"),
    [
        ("early", "early", "sae.target=early of block early is the block itself"),
        ("attn_out", "early", "is no block, and no site of its module; .*early, early_out, late"),
        ("mlp_out", "first", "is no block, and no site of its module"),
        ("left_out", "early", "is no block"),
    ],
)
def test_what_names_no_other_stream_is_refused_with_the_known_ones(target, block, message):
    with pytest.raises(UserError, match=message):
        target_of(target, block, HOOKPOINTS)
