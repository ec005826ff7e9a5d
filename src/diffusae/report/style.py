"""The colours of blocks, on the page and in pictures of its charts."""

from __future__ import annotations

from collections.abc import Sequence

# Okabe and Ito's palette, which the colour-blind can tell apart.
BLOCK_COLOURS = {"down": "#0072b2", "mid": "#d55e00", "up": "#009e73"}
_MORE_COLOURS = ("#cc79a7", "#e69f00", "#56b4e9", "#8c7a00", "#7b5ea7")


def block_colours(blocks: Sequence[str]) -> dict[str, str]:
    """A colour for each block: down, mid and up have their own, others share the rest in turn."""
    others = [block for block in blocks if block not in BLOCK_COLOURS]
    shared = {block: _MORE_COLOURS[i % len(_MORE_COLOURS)] for i, block in enumerate(others)}
    return {block: BLOCK_COLOURS.get(block) or shared[block] for block in blocks}
