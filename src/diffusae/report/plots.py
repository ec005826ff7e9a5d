"""The charts of the report: a metric against t, and a metric over the whole grid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from diffusae.errors import UserError
from diffusae.report.style import BASELINE_LINES, INK, LINES, MUTED, STYLE, block_colours
from diffusae.report.tables import (
    Row,
    blocks_of,
    conditionings_of,
    number,
    plain,
    rows_of,
    times_of,
)

TIME_LABEL = "t (1 = first step, 0 = last)"
_PANEL = (2.75, 2.35)
_PANELS_A_ROW = 3


def iou_curves(results: Iterable[Mapping[str, Any]], *, metric: str = "composition") -> Figure:
    """A metric against t, one panel a block: a line a conditioning with its 95 % band, and the
    baselines.

    A moment without data is a gap. Baselines are those of the cond rows (where a block has none, of
    the others), labelled beside the last panel of each line of panels.

    Raises:
        UserError: no rows of this metric.
    """
    rows = _some_rows(results, metric)
    blocks = blocks_of(row.block for row in rows)
    columns = min(len(blocks), _PANELS_A_ROW)
    lines = -(-len(blocks) // columns)
    with matplotlib.rc_context(STYLE):
        left, right, gap, top, bottom = 0.55, 1.45, 0.22, 0.62, 0.5
        width = left + columns * _PANEL[0] + (columns - 1) * gap + right
        height = top + lines * _PANEL[1] + (lines - 1) * 0.75 + bottom
        figure = Figure(figsize=(width, height))
        axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        figure.subplots_adjust(
            left=left / width,
            right=1 - right / width,
            top=1 - top / height,
            bottom=bottom / height,
            wspace=gap / _PANEL[0],
            hspace=0.75 / _PANEL[1],
        )
        names = list(dict.fromkeys(name for row in rows for name in row.baselines))
        highest = _set_limits(axes[0, 0], rows)
        for index, panel in enumerate(axes.flat):
            if index >= len(blocks):
                panel.set_axis_off()
                continue
            of_block = [row for row in rows if row.block == blocks[index]]
            panel.set_title(blocks[index])
            panel.tick_params(labelbottom=True)
            panel.set_xlabel(TIME_LABEL)
            if index % columns == 0:
                panel.set_ylabel(rows[0].unit)
            ends = _draw_baselines(panel, of_block, names)
            if index % columns == columns - 1 or index == len(blocks) - 1:
                _label_baselines(panel, ends, gap=highest * 0.066)
            colour = block_colours(blocks)[blocks[index]]
            for conditioning in conditionings_of(row.conditioning for row in of_block):
                _draw_line(
                    panel, [row for row in of_block if row.conditioning == conditioning], colour
                )
        _add_legend(figure, conditionings_of(row.conditioning for row in rows), left / width)
    return figure


def _some_rows(results: Iterable[Mapping[str, Any]], metric: str) -> list[Row]:
    rows = rows_of(results, metric)
    if not rows:
        raise UserError(f"there are no rows of {metric} to draw; evaluate it first")
    return rows


def _set_limits(panel: Axes, rows: Sequence[Row]) -> float:
    """The axes' limits, shared by all panels, and the upper one of the values."""
    times = times_of(row.t for row in rows)
    pad = 0.04 * (times[0] - times[-1]) or 0.5
    panel.set_xlim(times[0] + pad, times[-1] - pad)
    if len(times) <= 6:
        panel.set_xticks(times, [f"{t:.2f}" for t in times])
    figures = [each for row in rows for each in (row.figure, *row.baselines.values())]
    ends = [end for each in figures for end in (each.value, *(each.ci95 or ())) if end is not None]
    lowest, highest = min([0.0, *ends]), max([0.0, *ends]) * 1.06 or 1.0
    panel.set_ylim(lowest, highest)
    return highest - lowest


def _draw_line(panel: Axes, rows: Sequence[Row], colour: str) -> None:
    values, low, high = _columns([(row.figure.value, row.figure.ci95) for row in rows])
    times = np.array([row.t for row in rows])
    style = LINES.get(rows[0].conditioning, ":")
    many = len(rows) > 12
    # A line through many points needs no markers, but for a point between two gaps, which has no
    # line.
    gap = np.pad(np.isnan(values), 1, constant_values=True)
    marked = np.flatnonzero(gap[:-2] & gap[2:]) if many else np.arange(len(rows))
    panel.fill_between(times, low, high, color=colour, alpha=0.16, linewidth=0)
    panel.plot(
        times,
        values,
        color=colour,
        linestyle=style,
        linewidth=1.7,
        marker="o",
        markersize=4,
        markevery=marked.tolist(),
        label=rows[0].conditioning,
    )
    if not many:
        panel.vlines(times, low, high, color=colour, linewidth=1.0, alpha=0.55)


def _draw_baselines(
    panel: Axes, rows: Sequence[Row], names: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Draw them and return where each line ends: (t, value)."""
    first = conditionings_of(row.conditioning for row in rows)[0]
    chosen = [row for row in rows if row.conditioning == first]
    ends: dict[str, tuple[float, float]] = {}
    for index, name in enumerate(names):
        known = [
            (row.t, value)
            for row in chosen
            if (each := row.baselines.get(name)) is not None and (value := each.value) is not None
        ]
        if not known:
            continue
        style = BASELINE_LINES[index % len(BASELINE_LINES)]
        if len({row.t for row in rows}) == 1:  # one moment has no line: draw its level
            panel.axhline(known[-1][1], color=MUTED, linewidth=0.9, linestyle=style)
        else:
            panel.plot(*zip(*known, strict=True), color=MUTED, linewidth=0.9, linestyle=style)
        ends[name] = known[-1]
    return ends


def _label_baselines(panel: Axes, ends: Mapping[str, tuple[float, float]], *, gap: float) -> None:
    for name, height in _apart({name: value for name, (_, value) in ends.items()}, gap).items():
        panel.annotate(
            plain(name),
            xy=ends[name],
            xytext=(1.07, height),
            textcoords=("axes fraction", "data"),
            va="center",
            color=MUTED,
            fontsize=8,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": MUTED,
                "linewidth": 0.5,
                "shrinkA": 1,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
        )


def _apart(heights: Mapping[str, float], gap: float) -> dict[str, float]:
    """The heights moved as little as needed for neighbours to be `gap` apart, in the same order."""
    clusters: list[tuple[list[str], float]] = []
    for name in sorted(heights, key=lambda each: (heights[each], each)):
        clusters.append(([name], heights[name]))
        # Two clusters that touch become one, centred on the mean of its members' own heights.
        while len(clusters) > 1:
            (below, low), (above, high) = clusters[-2:]
            if high - low >= gap * (len(below) + len(above)) / 2:
                break
            both = below + above
            clusters[-2:] = [(both, sum(heights[each] for each in both) / len(both))]
    return {
        name: centre + gap * (index - (len(names) - 1) / 2)
        for names, centre in clusters
        for index, name in enumerate(names)
    }


def _add_legend(figure: Figure, conditionings: Sequence[str], left: float) -> None:
    handles: list[Any] = [
        Line2D([], [], color=INK, linestyle=LINES.get(name, ":"), linewidth=1.7, label=name)
        for name in conditionings
    ]
    handles.append(Line2D([], [], color=INK, alpha=0.2, linewidth=7, label="95 % interval"))
    handles.append(
        Line2D([], [], color=MUTED, linestyle=BASELINE_LINES[0], linewidth=0.9, label="baselines")
    )
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(left, 1), ncols=len(handles), borderpad=0
    )


def grid_heatmap(results: Iterable[Mapping[str, Any]], metric: str) -> Figure:
    """A metric over the grid: a row for each block and conditioning, a column for each t from 1 to
    0.

    The value stands in its cell; a dash is a cell without data. Blue: higher is better; orange:
    lower is.

    Raises:
        UserError: no rows of this metric.
    """
    rows = _some_rows(results, metric)
    times = times_of(row.t for row in rows)
    lines = [
        (block, conditioning)
        for block in blocks_of(row.block for row in rows)
        for conditioning in conditionings_of(row.conditioning for row in rows if row.block == block)
    ]
    values = np.full((len(lines), len(times)), np.nan)
    for row in rows:
        if row.figure.value is not None:
            values[lines.index((row.block, row.conditioning)), times.index(row.t)] = (
                row.figure.value
            )
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        left, top, cell = 1.15, 0.26, (0.62 if len(times) <= 12 else 0.42, 0.3)
        width, height = left + cell[0] * len(times) + 0.1, top + cell[1] * len(lines) + 0.08
        figure = Figure(figsize=(width, height))
        panel = figure.add_axes(
            (
                left / width,
                0.08 / height,
                cell[0] * len(times) / width,
                cell[1] * len(lines) / height,
            )
        )
        mesh = _draw_mesh(panel, values, higher_is_better=rows[0].higher_is_better)
        _print_values(panel, values, mesh)
        for index in range(1, len(lines)):
            if lines[index][0] != lines[index - 1][0]:
                panel.axhline(index, color=MUTED, linewidth=1.2)
        panel.xaxis.set_ticks_position("top")
        panel.set_xticks(np.arange(len(times)) + 0.5, [f"{t:.2f}" for t in times])
        panel.annotate(
            "t", (0, 1), (-5, 5.5), "axes fraction", "offset points", ha="right", color=MUTED
        )
        panel.set_yticks(
            np.arange(len(lines)) + 0.5, [" · ".join(line) for line in lines], color=INK
        )
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)
    return figure


def _draw_mesh(panel: Axes, values: NDArray[np.float64], *, higher_is_better: bool) -> QuadMesh:
    known = values[np.isfinite(values)]
    name, end = ("Blues", "#08519c") if higher_is_better else ("Oranges", "#a63603")
    shades = ["#f6f8fa", *matplotlib.colormaps[name]([0.25, 0.55]), end]
    colours = LinearSegmentedColormap.from_list(name, shades).with_extremes(bad=(0, 0, 0, 0))
    low, high = min([0.0, *known]), max([0.0, *known])
    mesh = panel.pcolormesh(
        np.ma.masked_invalid(values),
        cmap=colours,
        vmin=low,
        vmax=high if high > low else low + 1,
        edgecolors="white",
        linewidth=1,
    )
    panel.invert_yaxis()
    return mesh


def _print_values(panel: Axes, values: NDArray[np.float64], mesh: QuadMesh) -> None:
    for (line, column), value in np.ndenumerate(values):
        if not np.isfinite(value):
            text, colour = "–", MUTED
        else:
            red, green, blue, _ = mesh.to_rgba(np.array([value]))[0]
            # Rec. 709 luminance: dark text on light cells, light text on dark ones.
            colour = "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.5 else "white"
            text = number(float(value), 2)
        panel.text(
            column + 0.5, line + 0.5, text, ha="center", va="center", color=colour, fontsize=8
        )


def _columns(
    figures: Sequence[tuple[float | None, tuple[float, float] | None]],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Values and the ends of their intervals; NaN where there are none."""
    table = [
        (np.nan if value is None else value, *(ci95 or (np.nan, np.nan))) for value, ci95 in figures
    ]
    values, low, high = np.array(table, dtype=np.float64).T
    return values, low, high
