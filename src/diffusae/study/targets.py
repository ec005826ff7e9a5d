"""Which stream a transcoder has as its target (`sae.target`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diffusae.backbone.text_layers import names_text_layer
from diffusae.errors import UserError

Hookpoints = Mapping[str, str | int | None]


def target_of(target: str, block: str, hookpoints: Hookpoints) -> str:
    """The block whose stream is the target of `block`.

    `target` is a block by its name, or a site of the same module: with the hookpoints

        {early: blocks.3:mlp_in, early_out: blocks.3:mlp_out, late: blocks.9:mlp_in, ...}

    the target `mlp_out` of `early` is `early_out`.

    Raises:
        UserError: there is no such block, or it is the block itself.
    """
    found = target if hookpoints.get(target) is not None or names_text_layer(target) else None
    own = _parts(hookpoints.get(block))
    if found is None and own is not None:
        wanted = own[0], target, own[2]
        found = next((name for name, place in hookpoints.items() if _parts(place) == wanted), None)
    if found is None or found == block:
        why = "is the block itself" if found == block else "is no block, and no site of its module"
        known = ", ".join(name for name, place in hookpoints.items() if place is not None)
        raise UserError(
            f"sae.target={target} of block {block} {why}; name another block of model.hookpoints"
            f" ({known}), or add the site there, and leave the target out of grid.blocks: it is"
            " recorded with the blocks that it belongs to"
        )
    return found


def with_targets(blocks: Sequence[str], target: str | None, hookpoints: Hookpoints) -> list[str]:
    """These blocks, and the targets of their transcoders after them, every one once."""
    targets = [] if target is None else [target_of(target, one, hookpoints) for one in blocks]
    return list(dict.fromkeys([*blocks, *targets]))


def _parts(hookpoint: str | int | None) -> tuple[str, str, str] | None:
    """The module's path, the site and the stream of a hookpoint `PATH[:SITE][@STREAM]`."""
    if not isinstance(hookpoint, str):
        return None
    place, _, stream = hookpoint.partition("@")
    path, _, site = place.partition(":")
    return path, site or "update", stream or "picture"
