"""What reports and cards say of how a collection was made, by its kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusae.parsing import reading


def how_collected(header: Mapping[str, Any]) -> dict[str, str]:
    """{what: how} of the pass that recorded everything, from the header of its manifest.

    Raises:
        UserError: the header lacks an entry that its kind of collection has.
    """
    with reading("the header of the collection's manifest", remedy="collect again"):
        return _how(header)


def _how(header: Mapping[str, Any]) -> dict[str, str]:
    truncated = {"truncated prompts": str(header.get("truncated_prompts"))}
    if header.get("collection") == "text":
        return {"collection": "outputs of text encoders' layers, token by token", **truncated}
    if header.get("collection") == "pictures":
        prompt = repr(header["prompt"]) if header["prompt"] else "the empty prompt"
        weights = ", the denoiser's weights drawn at random" if header["random_weights"] else ""
        pooled = ", mean over positions" if header["pooled"] else ""
        return {
            "collection": (
                f"given pictures, one pass a time t under {prompt}:"
                f" {header['record']}s{pooled}{weights}"
            ),
            "times": f"{header['scheduler']}, of {header['steps']} steps",
            "pictures that do not decode": str(header["undecodable_pictures"]),
        }
    sampling = f"{header['scheduler']}, {header['steps']} steps, guidance {header['guidance']}"
    return {"sampling": sampling, **truncated}
