"""A metric over the whole grid as a picture, for W&B."""

from __future__ import annotations

from collections.abc import Iterable

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from diffusae.errors import UserError
from diffusae.evaluation.result import Result
from diffusae.report.style import INK, MUTED, STYLE
from diffusae.report.tables import Row, blocks_of, conditionings_of, number, rows_of, times_of

TIME_LABEL = "t (1 = first step, 0 = last)"


def _some_rows(results: Iterable[Result], metric: str) -> list[Row]:
    rows = rows_of(results, metric)
    if not rows:
        raise UserError(f"there are no rows of {metric} to draw; evaluate it first")
    return rows


def grid_heatmap(results: Iterable[Result], metric: str) -> Figure:
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
        mesh = _draw_mesh(panel, values, higher_is_better=rows[0].result.higher_is_better)
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
