"""Where vectors are read and edited in and around a block, and how that is named.

A hookpoint is `PATH[:SITE][@STREAM]`, such as `transformer_blocks.11:mlp_out@text`. Without a site
it is the block's update, and without a stream the picture's tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from diffusae.backbone.blocks import HookpointInfo, Site, Tokens, TokenStream
from diffusae.errors import UserError, unknown

SITES: tuple[Site, ...] = get_args(Site)
OF_BLOCK: tuple[Site, ...] = ("update", "before", "after")
"""The sites that every block has."""
STREAMS: tuple[TokenStream, ...] = get_args(TokenStream)

_NAME = re.compile(r"([^:@]*)(?::([^:@]*))?(?:@([^:@]*))?")


@dataclass(frozen=True)
class Layers:
    """The layers of a block of one class, as paths below it."""

    mlp: str = "ff"
    attention: str = "attn1"
    """Of the picture's tokens to one another, or to the text's as well in joint attention."""
    text_mlp: str | None = None
    """The MLP of the text's own stream. None: there is no such stream, or `mlp` runs for the
    picture and then for the text."""


_TWO_STREAMS = Layers("ff", "attn", "ff_context")

LAYERS: Mapping[str, Layers] = {
    "BasicTransformerBlock": Layers(),
    "SanaTransformerBlock": Layers(),
    "HunyuanDiTBlock": Layers(),
    "LTXVideoTransformerBlock": Layers(),
    "WanTransformerBlock": Layers("ffn"),
    "JointTransformerBlock": _TWO_STREAMS,
    "FluxTransformerBlock": _TWO_STREAMS,
    "Flux2TransformerBlock": _TWO_STREAMS,
    "ChromaTransformerBlock": _TWO_STREAMS,
    "AuraFlowJointTransformerBlock": _TWO_STREAMS,
    "AuraFlowSingleTransformerBlock": Layers("ff", "attn"),
    "QwenImageTransformerBlock": Layers("img_mlp", "attn", "txt_mlp"),
    "CogView4TransformerBlock": Layers(),
    "ZImageTransformerBlock": Layers("feed_forward", "attention"),
    "Lumina2TransformerBlock": Layers("feed_forward", "attn"),
    "HiDreamBlock": Layers("block.ff_i", "block.attn1", "block.ff_t"),
}
"""{class of blocks: its layers}"""

PARALLEL = (
    "FluxSingleTransformerBlock",
    "Flux2SingleTransformerBlock",
    "ChromaSingleTransformerBlock",
)
"""Blocks in which one projection takes the attention and the MLP together."""


@dataclass(frozen=True)
class Reading:
    """How the vectors of a hookpoint are read while the model runs.

    Attributes:
        module: the path of the hooked module under the denoiser.
        tokens: where they are in its call.
        edge: whether they are in its input or its output.
        call: of several calls of the module in one call of the block, the number of the one that is
            read; None: there is only one.
    """

    module: str
    tokens: Tokens
    edge: Literal["input", "output"]
    call: int | None = None


def parsed(name: str | int) -> tuple[str | int, Site | None, TokenStream | None]:
    """(path or place, site, stream) of a hookpoint's name; None: it does not say.

    Example: "11:mlp_out@text" is (11, "mlp_out", "text").

    Raises:
        UserError: an unknown site or stream, or another form.
    """
    if isinstance(name, int):
        return name, None, None
    match = _NAME.fullmatch(name)
    if match is None:
        raise UserError(
            f"hookpoint {name!r} must be PATH[:SITE][@STREAM], such as"
            " transformer_blocks.11:mlp_out@text"
        )
    path, site, stream = match.groups()
    if site is not None and site not in SITES:
        raise unknown(f"site in hookpoint {name!r}:", site, SITES)
    if stream is not None and stream not in STREAMS:
        raise unknown(f"stream in hookpoint {name!r}:", stream, STREAMS)
    place = int(path) if re.fullmatch(r"-?\d+", path) else path
    return place, site, stream  # type: ignore[return-value]


def completed(
    name: str | int, *, site: Site = "update", stream: TokenStream = "picture"
) -> str | int:
    """A hookpoint's name with this site and stream where it does not say its own."""
    place, own_site, own_stream = parsed(name)
    site, stream = own_site or site, own_stream or stream
    if (site, stream) == ("update", "picture"):
        return place
    return HookpointInfo(str(place), 0, site=site, stream=stream).name


def at(info: HookpointInfo, site: Site, stream: TokenStream) -> HookpointInfo:
    """The hookpoint at this site and stream of a block.

    Raises:
        UserError: the block does not have it; the message says why.
    """
    if fault := _stream_fault(info, stream) or _site_fault(info, site):
        raise UserError(f"{info.path} ({info.kind}) {fault}")
    if stream == "text" and info.ends_text and site != "before":
        raise UserError(
            f"{info.path} ({info.kind}) is the last block: it reads the text's tokens and returns"
            f" none; take an earlier block, or {info.path}:before@text"
        )
    return replace(info, site=site, stream=stream)


def _stream_fault(info: HookpointInfo, stream: TokenStream) -> str | None:
    if stream == "text" and info.text is None:
        return (
            "holds no text tokens, so it has no @text: it reads the text by attention alone; study"
            " the text encoders (collection=text), or a model whose blocks hold both streams"
        )
    if stream == "picture" and info.picture is None:
        return f"holds no tokens of the picture, only of the text; name it {info.path}@text"
    return None


def _site_fault(info: HookpointInfo, site: Site) -> str | None:
    if site in OF_BLOCK or info.kind in LAYERS:
        return None
    others = f"take {', '.join(OF_BLOCK)}"
    if info.kind in PARALLEL:
        return (
            f"has no {site}: it computes attention and MLP in parallel and projects both together;"
            f" {others}"
        )
    if info.layers:
        layer = f"{info.path}.transformer_blocks.0:{site}"
        return (
            f"has no {site} of its own: it holds {info.layers} transformer blocks (from 0); name"
            f" one of them, such as {layer}, or {others}"
        )
    return f"has no {site} that diffusae knows; {others}"


def sites_of(info: HookpointInfo) -> tuple[Site, ...]:
    """The sites of a block."""
    return tuple(site for site in SITES if _site_fault(info, site) is None)


def streams_of(info: HookpointInfo) -> tuple[TokenStream, ...]:
    """The streams whose tokens a block holds."""
    return tuple(stream for stream in STREAMS if _stream_fault(info, stream) is None)


def layer_of(info: HookpointInfo, number: int) -> HookpointInfo:
    """One of the basic transformer blocks in a U-Net's 2D transformer, from 0.

    Raises:
        UserError: there are fewer.
    """
    if number >= info.layers:
        raise UserError(
            f"{info.path} holds {info.layers} transformer blocks; give 0 to {info.layers - 1}"
        )
    return HookpointInfo(
        f"{info.path}.transformer_blocks.{number}",
        info.d_in,
        level=info.level,
        kind="BasicTransformerBlock",
        picture=Tokens(),
    )


def reading(info: HookpointInfo) -> Reading:
    """How the vectors of a hookpoint are read."""
    tokens = info.picture if info.stream == "picture" else info.text
    assert tokens is not None, "`at` refuses this stream"
    if info.site in OF_BLOCK:
        return Reading(info.path, tokens, "input" if info.site == "before" else "output")
    layers = LAYERS[info.kind]
    text = None if info.picture is None else info.text
    own_tensors = text is not None and text.within == "whole"  # beside the picture's
    number = STREAMS.index(info.stream)
    if info.site == "attn_out":
        seen = Tokens(output=number if own_tensors else -1, within=tokens.within)
        return Reading(f"{info.path}.{layers.attention}", seen, "output")
    mlp = layers.mlp
    if info.stream == "text" and own_tensors:
        mlp = layers.text_mlp or mlp
    call = number if own_tensors and layers.text_mlp is None else None
    edge = "input" if info.site == "mlp_in" else "output"
    return Reading(f"{info.path}.{mlp}", Tokens(within=tokens.within), edge, call)
