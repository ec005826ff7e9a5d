"""The figure of the three-stage table: success and change of every edit, window by window, beside
the controls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from diffusae.errors import UserError
from diffusae.evaluation.result import Estimate
from diffusae.report.style import BASELINE_LINES, INK, MUTED, STYLE, block_colours
from diffusae.report.tables import blocks_of, capital, cell_order, number, plain
from diffusae.report.three_stages import EDITS, Line, controls_of, place_in, window_text

MARKERS = {
    "no_edit": "_",
    "random_latent": "o",
    "neuron": "^",
    "difference_of_means": "s",
    "dictionary_concepts": "d",
}
# Inches.
_SLOTS, _GAP, _ROW, _BETWEEN = (0.4, 0.58), 0.18, 1.25, 0.3
_NAME = 0.78
_CHANCE: dict[str, Any] = {"color": MUTED, "linewidth": 1.0, "linestyle": BASELINE_LINES[0]}
_LEFT, _MIDDLE, _RIGHT, _WIDTH = 0.85, 0.85, 0.1, 11.5
_LETTER, _MARK = 0.068, 0.5  # of the legend: a letter, and an entry's mark with the gap behind it


def three_stage_chart(lines: Sequence[Line]) -> Drawing:
    """A row of panels an edit: at the left its success, at the right how much else of the picture
    changes. On x the windows from the first to the last, in each every place that was evaluated;
    concepts coloured by block, controls grey.

    Raises:
        UserError: no lines.
    """
    if not lines:
        raise UserError("there are no interventions to draw; evaluate spatial or global first")
    edits = sorted({line.edit for line in lines}, key=lambda name: place_in(EDITS, name))
    slot = _slot(lines)
    places, bands = _places(lines, slot)
    span = bands[-1][3]
    handles = _legend(lines)
    width = _LEFT + 2 * span + _MIDDLE + _RIGHT
    entry = _MARK + _LETTER * max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, min(len(handles), int((width - 0.12) / entry)))
    top, bottom = 0.58 + 0.2 * math.ceil(len(handles) / columns), 0.42
    height = top + len(edits) * _ROW + (len(edits) - 1) * _BETWEEN + bottom
    colours = block_colours(blocks_of(line.block for line in lines))
    with matplotlib.rc_context(STYLE):
        figure = Drawing(figsize=(width, height))
        for row, edit in enumerate(edits):
            for column, title in enumerate(("success", "change")):
                box = (
                    (_LEFT + column * (span + _MIDDLE)) / width,
                    1 - (top + (row + 1) * _ROW + row * _BETWEEN) / height,
                    span / width,
                    _ROW / height,
                )
                panel = figure.add_axes(box)
                of_edit = [line for line in lines if line.edit == edit]
                _draw_panel(panel, of_edit, places, colours, slot=slot, success=title == "success")
                _finish_panel(
                    panel, edit, lines, places, bands, first=row == 0, last=row == len(edits) - 1
                )
        figure.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(0.12 / width, 1),
            ncols=columns,
            borderpad=0,
            columnspacing=1.3,
            handletextpad=0.5,
        )
    return figure


def _slot(lines: Sequence[Line]) -> float:
    """The width of a place: as much as the page has, within bounds."""
    slots, windows = {line.slot for line in lines}, {(line.window, line.bounds) for line in lines}
    room = (_WIDTH - _LEFT - _MIDDLE - _RIGHT) / 2 - _GAP * (len(windows) - 1)
    return min(max(room / len(slots), _SLOTS[0]), _SLOTS[1])


def _places(
    lines: Sequence[Line], slot: float
) -> tuple[dict[tuple[Any, ...], float], list[tuple[str, tuple[float, float], float, float]]]:
    """x of every slot in inches, and of every window its name, bounds, left and right end."""
    windows = dict.fromkeys((line.window, line.bounds) for line in lines)
    x, places, bands = 0.0, {}, []
    for window, bounds in windows:
        inside = sorted(
            {line.slot: line for line in lines if line.window == window}.values(),
            key=lambda line: (
                line.together,
                cell_order(line.block, line.t, line.conditioning),
                line.tag,
            ),
        )
        start = x
        for line in inside:
            places[line.slot] = x + slot / 2
            x += slot
        if x - start < _NAME:  # room for the window's own name
            for line in inside:
                places[line.slot] += (_NAME - x + start) / 2
            x = start + _NAME
        bands.append((window, bounds, start, x))
        x += _GAP
    return places, bands


def _draw_panel(
    panel: Axes,
    lines: Sequence[Line],
    places: Mapping[tuple[Any, ...], float],
    colours: Mapping[str, str],
    *,
    slot: float,
    success: bool,
) -> None:
    names = controls_of(lines)
    step = 0.8 * slot / (len(names) + 1)
    ends: list[float] = []
    unit = ""
    for line in lines:
        measure = line.measures.get("success") if success else line.distance
        if measure is None:
            continue
        unit = measure.unit
        x = places[line.slot] - step * len(names) / 2
        colour = colours[line.block] if len(line.blocks) == 1 else INK
        ends += _draw_figure(panel, x, measure.own, marker="D", colour=colour, own=True)
        for index, name in enumerate(names, start=1):
            if name in measure.controls:
                ends += _draw_figure(
                    panel,
                    x + index * step,
                    measure.controls[name],
                    marker=MARKERS.get(name, "x"),
                    colour=MUTED,
                    own=False,
                )
        if success and measure.chance is not None:
            panel.hlines(
                measure.chance,
                places[line.slot] - slot / 2,
                places[line.slot] + slot / 2,
                label="chance",
                **_CHANCE,
            )
    if success:
        panel.set_ylim(-0.05, 1.08)
    elif unit == "SSIM":
        room = max(0.02, 1 - min([1.0, *ends]))
        panel.set_ylim(1 - 1.12 * room, 1 + 0.12 * room)
    else:
        high = max([0.05, *ends])
        panel.set_ylim(-0.02 * high, 1.12 * high)
    if not success and not ends:
        panel.text(0.5, 0.5, "no data", transform=panel.transAxes, ha="center", color=MUTED)
    if success:
        panel.set_yticks([0, 0.5, 1])
        panel.set_ylabel("success")
    else:
        panel.locator_params(axis="y", nbins=4)
        panel.set_ylabel(_change_label(lines, unit))


def _change_label(lines: Sequence[Line], unit: str) -> str:
    if lines[0].edit == "spatial":
        return "change of the rest\n(RMS)"
    if any("distance" in line.measures for line in lines):
        return "feature distance"
    return "SSIM\n(1: unchanged)" if unit == "SSIM" else unit


def _draw_figure(
    panel: Axes, x: float, figure: Estimate, *, marker: str, colour: str, own: bool
) -> list[float]:
    """Draw one figure with its interval, and return what it spans."""
    if figure.value is None:
        return []
    low, high = figure.ci95 or (figure.value, figure.value)
    panel.vlines(x, low, high, color=colour, linewidth=2.0 if own else 0.9, zorder=2)
    panel.plot(
        [x],
        [figure.value],
        marker=marker,
        markersize=5.5 if own else 7 if marker == "_" else 4.2,
        markeredgewidth=1.0,
        markerfacecolor=colour if own else "none",
        markeredgecolor="white" if own else colour,
        linestyle="",
        zorder=3,
    )
    return [low, high]


def _finish_panel(
    panel: Axes,
    edit: str,
    lines: Sequence[Line],
    places: Mapping[tuple[Any, ...], float],
    bands: Sequence[tuple[str, tuple[float, float], float, float]],
    *,
    first: bool,
    last: bool,
) -> None:
    """Limits, the windows' bands and names, and the places below the last panel."""
    span = bands[-1][3]
    panel.set_xlim(-0.04, span + 0.04)
    panel.grid(visible=False, axis="x")
    for window, bounds, start, end in bands:
        panel.axvspan(start, end, color=MUTED, alpha=0.07, linewidth=0)
        if first:
            text = f"{window}\n{window_text(bounds)}"
            panel.text(
                (start + end) / 2,
                1.05,
                text,
                transform=panel.get_xaxis_transform(),
                ha="center",
                va="bottom",
                color=INK,
                fontsize=7.5,
                linespacing=1.25,
            )
    several = len({line.conditioning for line in lines}) > 1
    tags = len({line.tag for line in lines}) > 1
    labels = {
        line.slot: "\n".join(
            [
                (
                    line.blocks[0].replace("_", "_\n")
                    if len(line.blocks) == 1
                    else f"{len(line.blocks)}\nblocks"
                ),
                f"{line.t:.2f}",
                *([line.conditioning] if several else []),
                *([line.tag] if tags else []),
            ]
        )
        for line in lines
    }
    panel.set_xticks(list(places.values()), [labels[slot] for slot in places], fontsize=7)
    panel.tick_params(axis="x", length=0, labelbottom=last)
    if panel.get_ylabel() == "success":
        panel.set_ylabel(f"{capital(plain(edit))}:\nsuccess")


def _legend(lines: Sequence[Line]) -> list[Line2D]:
    blocks = blocks_of(line.block for line in lines if len(line.blocks) == 1)
    colours = block_colours(blocks)
    own = [
        Line2D(
            [],
            [],
            color=colours[block],
            marker="D",
            markersize=5.5,
            linewidth=2,
            label=f"concepts, {block}",
        )
        for block in blocks
    ]
    if any(len(line.blocks) > 1 for line in lines):
        own.append(
            Line2D(
                [],
                [],
                color=INK,
                marker="D",
                markersize=5.5,
                linewidth=2,
                label="concepts, blocks together",
            )
        )
    controls = [
        Line2D(
            [],
            [],
            color=MUTED,
            marker=MARKERS.get(name, "x"),
            markersize=4.2,
            linewidth=0.9,
            fillstyle="none",
            label=plain(name),
        )
        for name in controls_of(lines)
    ]
    chances = {
        success.chance
        for line in lines
        if (success := line.measures.get("success")) and success.chance is not None
    }
    text = f"chance {number(min(chances), 2)}" if len(chances) == 1 else "chance"
    return [*own, *controls, *([Line2D([], [], label=text, **_CHANCE)] if chances else [])]
