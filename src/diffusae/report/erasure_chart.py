"""The figure of the erasure benchmark: attack success against what is left of other prompts, a line
a defence.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from diffusae.errors import UserError
from diffusae.report.erasure import NONE, OWN, Target, Trade, defence_order
from diffusae.report.style import BLOCK_COLOURS, INK, MUTED, STYLE
from diffusae.report.tables import plain

# Okabe and Ito's palette; the text edit has the strongest.
COLOURS = {
    OWN: BLOCK_COLOURS["mid"],
    "negative_prompt": BLOCK_COLOURS["down"],
    "safe_guidance": BLOCK_COLOURS["up"],
    "word_removal": "#cc79a7",
    "update_ablation": "#8c7a00",
    NONE: INK,
}
MARKERS = {
    OWN: "D",
    "negative_prompt": "s",
    "safe_guidance": "^",
    "word_removal": "v",
    "update_ablation": "o",
    NONE: "x",
}
_PANEL, _LEFT, _BETWEEN, _BOTTOM, _TOP, _RIGHT = (4.3, 3.3), 0.62, 0.75, 0.5, 0.75, 0.15


def trade_off_chart(targets: Sequence[Target]) -> Drawing:
    """A panel a target. To the right, harm: the share of other prompts whose pictures are no longer
    right. Upwards, attack success on prompts that name the target. The lower left corner is the
    aim; larger marks are the strengths that tuning chose, with intervals.

    Raises:
        UserError: no targets.
    """
    if not targets:
        raise UserError("there is no erasure to draw; evaluate erasure first")
    width = _LEFT + len(targets) * _PANEL[0] + (len(targets) - 1) * _BETWEEN + _RIGHT
    height = _TOP + _PANEL[1] + _BOTTOM
    with matplotlib.rc_context(STYLE):
        figure = Drawing(figsize=(width, height))
        for place, target in enumerate(targets):
            left = _LEFT + place * (_PANEL[0] + _BETWEEN)
            box = (left / width, _BOTTOM / height, _PANEL[0] / width, _PANEL[1] / height)
            panel = figure.add_axes(box)
            for defence in sorted(target.curves, key=defence_order, reverse=True):
                _draw(panel, defence, target.curves[defence])
            panel.set_xlim(-0.04, 1.04)
            panel.set_ylim(-0.04, 1.04)
            panel.set_title(f"{target.name} is to go")
            panel.set_xlabel("harm: other prompts not drawn as asked")
            if place == 0:
                panel.set_ylabel("attack success: plain prompts show the target")
        handles = {
            label: handle
            for panel in figure.axes
            for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
        }
        ordered = sorted(handles, key=lambda label: defence_order(label.replace(" ", "_")))
        figure.legend(
            handles=[handles[label] for label in ordered],
            labels=ordered,
            loc="upper left",
            bbox_to_anchor=(_LEFT / width, 1),
            ncols=len(ordered) if len(targets) > 1 else 3,
            borderpad=0.2,
            columnspacing=1.3,
            handletextpad=0.5,
        )
    return figure


def _draw(panel: Axes, defence: str, curve: Sequence[Trade]) -> None:
    there = [
        each for each in curve if each.attack.value is not None and each.aligned.value is not None
    ]
    colour = COLOURS.get(defence, MUTED)
    points = [(1 - (each.aligned.value or 0.0), each.attack.value or 0.0) for each in there]
    if not points:
        return
    panel.plot(
        *zip(*points, strict=True),
        color=colour,
        linewidth=1.3,
        marker=MARKERS.get(defence, "."),
        markersize=4,
        alpha=0.75,
        label=plain(defence),
    )
    for each, (x, y) in zip(there, points, strict=True):
        if len(there) > 1:
            panel.annotate(
                f"{each.strength:g}",
                (x, y),
                textcoords="offset points",
                xytext=(5, 4),
                fontsize=7,
                color=colour,
            )
        if each.chosen:
            panel.plot(
                [x],
                [y],
                marker=MARKERS.get(defence, "."),
                markersize=9,
                color=colour,
                linestyle="none",
            )
            for low, high, horizontal in _spans(each):
                (panel.hlines if horizontal else panel.vlines)(
                    y if horizontal else x, low, high, color=colour, linewidth=0.9, alpha=0.5
                )


def _spans(each: Trade) -> list[tuple[float, float, bool]]:
    """(from, to, whether along x) of the intervals that are known."""
    spans = []
    if each.aligned.ci95 is not None:
        spans.append((1 - each.aligned.ci95[1], 1 - each.aligned.ci95[0], True))
    if each.attack.ci95 is not None:
        spans.append((*each.attack.ci95, False))
    return spans
