"""The look of pictures of charts, for W&B and the documentation, and the colours of blocks.

A block is a colour, a conditioning a line style, a baseline a thin grey line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Okabe and Ito's palette, which the colour-blind can tell apart.
BLOCK_COLOURS = {"down": "#0072b2", "mid": "#d55e00", "up": "#009e73"}
_MORE_COLOURS = ("#cc79a7", "#e69f00", "#56b4e9", "#8c7a00", "#7b5ea7")
LINES = {"cond": "-", "uncond": (0, (5, 2))}
BASELINE_LINES = (
    (0, (1, 1.4)),
    (0, (6, 1.5)),
    (0, (4, 1.4, 1, 1.4)),
    "-",
    (0, (2.5, 1.2)),
    (0, (9, 2, 1, 2)),
)
INK, MUTED, _GRID = "#1b1f24", "#6e7781", "#d8dee4"
STYLE: dict[Any, Any] = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 2.5,
    "ytick.major.size": 0,
    "xtick.major.width": 0.7,
    "legend.frameon": False,
}


def block_colours(blocks: Sequence[str]) -> dict[str, str]:
    """A colour for each block: down, mid and up have their own, others share the rest in turn."""
    others = [block for block in blocks if block not in BLOCK_COLOURS]
    shared = {block: _MORE_COLOURS[i % len(_MORE_COLOURS)] for i, block in enumerate(others)}
    return {block: BLOCK_COLOURS.get(block) or shared[block] for block in blocks}
