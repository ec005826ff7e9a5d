"""The one look of all charts, and their way into the page.

A block is a colour, a conditioning a line style, a baseline a thin grey line. Text, axes and
background take the page's own colours, so that a chart fits a light page, a dark page and paper.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

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
# Drawn with the first, shown with the second.
_PAGE_COLOURS = {"#1b1f24": "var(--ink)", "#6e7781": "var(--muted)", "#d8dee4": "var(--line)"}
INK, MUTED, _GRID = _PAGE_COLOURS
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
    "svg.fonttype": "none",
    "svg.hashsalt": "diffusae",
}
# Inches of the page; a wider chart scrolls, so that its text keeps its size.
_WIDEST = 11.6


def block_colours(blocks: Sequence[str]) -> dict[str, str]:
    """A colour for each block: down, mid and up have their own, others share the rest in turn."""
    others = [block for block in blocks if block not in BLOCK_COLOURS]
    shared = {block: _MORE_COLOURS[i % len(_MORE_COLOURS)] for i, block in enumerate(others)}
    return {block: BLOCK_COLOURS.get(block) or shared[block] for block in blocks}


def svg(figure: Figure, *, name: str, alt: str) -> Markup:
    """The figure as an inline SVG element with a text alternative; `name` keeps its ids apart from
    others'.

    The same figure gives the same bytes. Text stays text, in the page's font.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context(STYLE):
        FigureCanvasSVG(figure).print_svg(buffer, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # An inline style sheet would hold for the whole page; page.css has this rule for charts.
    text = re.sub(r"<defs>\s*<style[^>]*>[^<]*</style>\s*</defs>", "", text, count=1)
    text = re.sub(r'\b(id="|xlink:href="#)', rf"\g<1>{name}-", text).replace(
        "url(#", f"url(#{name}-"
    )
    text = re.sub(r"font-family: [^;\"]*;?", "", text)
    for colour, variable in _PAGE_COLOURS.items():
        text = text.replace(colour, variable)
    wide = " wide" if figure.get_figwidth() > _WIDEST else ""
    head = Markup('<svg class="chart{}" role="img" aria-label="{}" ').format(wide, alt)
    return head + Markup(text[len("<svg ") :])
