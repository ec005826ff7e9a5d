"""Names of hookpoints, and which sites and streams a block has."""

from typing import Any

import pytest

from diffusae.backbone.blocks import HookpointInfo, Tokens
from diffusae.backbone.hookpoints import find
from diffusae.backbone.sites import Reading, completed, parsed, reading, sites_of, streams_of
from diffusae.errors import UserError

BOTH: dict[str, Any] = {
    "picture": Tokens(output=1),
    "text": Tokens("encoder_hidden_states", output=0),
}
JOINT = HookpointInfo("blocks.0", 8, kind="JointTransformerBlock", **BOTH)
LAST = HookpointInfo("blocks.1", 8, kind="JointTransformerBlock", ends_text=True, **BOTH)
SINGLE = HookpointInfo("single.0", 8, kind="FluxSingleTransformerBlock", **BOTH)
SEQUENCE = HookpointInfo(
    "layers.0", 8, kind="Lumina2TransformerBlock",
    picture=Tokens(within="after_text"), text=Tokens(),
)  # fmt: skip
EDITED = HookpointInfo(
    "edited.0", 8, kind="FluxTransformerBlock",
    picture=Tokens(output=1, within="before_text"), text=BOTH["text"],
)  # fmt: skip
UNET = HookpointInfo("mid_block.attentions.0", 8, level=1, layers=2)
KNOWN = {info.path: info for info in (JOINT, LAST, SINGLE, SEQUENCE, EDITED, UNET)}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (7, (7, None, None)),
        ("blocks.0", ("blocks.0", None, None)),
        ("blocks.0:mlp_out@text", ("blocks.0", "mlp_out", "text")),
        ("-1:before", (-1, "before", None)),
        ("blocks.0@picture", ("blocks.0", None, "picture")),
    ],
)
def test_a_name_is_a_path_or_place_with_a_site_and_a_stream(name, parts) -> None:
    assert parsed(name) == parts


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blocks.0:mlp", "site in hookpoint 'blocks.0:mlp': 'mlp'.*mlp_in"),
        ("blocks.0@words", "stream in hookpoint.*'words'.*picture, text"),
        ("blocks.0:mlp_in:mlp_out", r"must be PATH\[:SITE\]\[@STREAM\]"),
        ("blocks.0@text:mlp_in", r"must be PATH\[:SITE\]\[@STREAM\]"),
    ],
)
def test_another_form_an_unknown_site_and_an_unknown_stream_are_refused(name, message) -> None:
    with pytest.raises(UserError, match=message):
        parsed(name)


def test_a_study_wide_site_and_stream_hold_where_a_name_says_nothing() -> None:
    assert completed("a.0") == "a.0" and completed(3) == 3 and completed("a.0:update") == "a.0"
    assert completed("a.0", stream="text") == "a.0@text"
    assert completed(-1, site="after") == "-1:after"
    assert completed("a.0:mlp_in@picture", site="after", stream="text") == "a.0:mlp_in"


def test_a_found_hookpoint_keeps_its_name_and_its_block() -> None:
    info = find(KNOWN, "0:mlp_in@text")
    assert (info.name, info.path, info.d_in) == ("blocks.0:mlp_in@text", "blocks.0", 8)
    assert find(KNOWN, "blocks.0").name == find(KNOWN, 0).name == "blocks.0"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("blocks.0", Reading("blocks.0", Tokens(output=1), "output")),
        ("blocks.0:before@text", Reading("blocks.0", BOTH["text"], "input")),
        ("blocks.0:mlp_in", Reading("blocks.0.ff", Tokens(), "input")),
        ("blocks.0:mlp_out@text", Reading("blocks.0.ff_context", Tokens(), "output")),
        ("blocks.0:attn_out", Reading("blocks.0.attn", Tokens(output=0), "output")),
        ("blocks.0:attn_out@text", Reading("blocks.0.attn", Tokens(output=1), "output")),
        # One MLP over one sequence of both
        (
            "layers.0:mlp_out",
            Reading("layers.0.feed_forward", Tokens(within="after_text"), "output"),
        ),
        # The tokens of given pictures follow the picture's own
        (
            "edited.0:attn_out",
            Reading("edited.0.attn", Tokens(output=0, within="before_text"), "output"),
        ),
        (
            "mid_block.attentions.0.transformer_blocks.1:mlp_in",
            Reading("mid_block.attentions.0.transformer_blocks.1.ff", Tokens(), "input"),
        ),
    ],
)
def test_a_site_is_read_at_its_layer(name, expected) -> None:
    assert reading(find(KNOWN, name)) == expected


def test_one_mlp_for_both_streams_is_read_by_the_number_of_its_call() -> None:
    """CogView 4: first the picture, then the text."""
    info = HookpointInfo("b.0", 8, kind="CogView4TransformerBlock", **BOTH)
    calls = [reading(find({"b.0": info}, f"b.0:mlp_out@{s}")).call for s in ("picture", "text")]
    assert calls == [0, 1]
    assert reading(find({"b.0": info}, "b.0:attn_out")).call is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("single.0:mlp_out", "in parallel and projects both together; take update, before, after"),
        ("single.0:attn_out@text", "in parallel"),
        ("mid_block.attentions.0:mlp_in", r"holds 2 transformer blocks .*transformer_blocks.0:mlp"),
        ("mid_block.attentions.0.transformer_blocks.2", "holds 2 transformer blocks; give 0 to 1"),
        ("mid_block.attentions.0@text", "no text tokens.*collection=text"),
        ("blocks.1@text", "is the last block.*blocks.1:before@text"),
        ("blocks.7:mlp_in", "hookpoint 'blocks.7'"),
    ],
)
def test_what_a_block_does_not_have_is_refused_with_the_reason(name, message) -> None:
    with pytest.raises(UserError, match=message):
        find(KNOWN, name)


def test_the_last_joint_block_still_reads_the_text() -> None:
    assert find(KNOWN, "blocks.1:before@text").name == "blocks.1:before@text"
    assert find(KNOWN, "blocks.1:mlp_out").site == "mlp_out"


def test_sites_and_streams_of_a_block_are_those_that_can_be_found() -> None:
    assert sites_of(SINGLE) == ("update", "before", "after")
    assert sites_of(JOINT) == (*sites_of(SINGLE), "mlp_in", "mlp_out", "attn_out")
    assert streams_of(JOINT) == ("picture", "text") and streams_of(UNET) == ("picture",)
