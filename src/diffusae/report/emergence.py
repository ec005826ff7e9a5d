"""The curves of emergence as the report reads and draws them: IoU over t, and the t at which each
has emerged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D
from matplotlib.transforms import blended_transform_factory

from diffusae.errors import UserError
from diffusae.report.plots import TIME_LABEL
from diffusae.report.style import BASELINE_LINES, INK, LINES, MUTED, STYLE, block_colours
from diffusae.report.tables import Figure, blocks_of, cell_order, conditionings_of, number, plain

METRIC = "emergence"
READERS = {"cross_attention": "s", "noun_probe": "^", "any_object_probe": "v"}
"""Readers whose own emergence is drawn beside the prediction's, and their markers."""
_UPPER, _LINE = 2.7, 0.34
_LEFT, _WIDTH, _RIGHT = 1.2, 5.6, 1.6


@dataclass(frozen=True)
class Curve:
    """One row of results: the curve of a block, a branch and a tag of SAEs.

    Attributes:
        reached: the t from which on the curve stays above `share` of its final value.
        between: the moments around `reached`; None where there is none before.
        readers: baseline -> its own t.
        points: (t, IoU), t descending.
        chance: IoU of chance.
        rise: final minus first IoU.
    """

    block: str
    conditioning: str
    tag: str
    share: float
    reached: Figure
    between: tuple[float, float] | None
    readers: Mapping[str, Figure]
    points: Sequence[tuple[float, Figure]]
    chance: Figure
    rise: Figure

    @property
    def name(self) -> str:
        """Such as "mid · cond"."""
        return f"{self.block} · {self.conditioning}"

    @property
    def rises(self) -> bool:
        """Whether the final IoU lies above the first with its whole interval; if not, `reached`
        says little.
        """
        return self.rise.ci95 is not None and self.rise.ci95[0] > 0


def curves_of(results: Iterable[Mapping[str, Any]]) -> list[Curve]:
    """The curves in the order: tag, block, conditioning.

    Raises:
        UserError: a row that lacks a field.
    """
    try:
        curves = [
            Curve(
                block=str(row["cell"]["block"]),
                conditioning=str(row["cell"]["conditioning"]),
                tag=str(row["details"]["tag"]),
                share=float(row["details"]["share"]),
                reached=Figure.of(row),
                between=None if (pair := row["details"]["between"]) is None else (pair[0], pair[1]),
                readers={name: Figure.of(each) for name, each in row["baselines"].items()},
                points=[(float(point["t"]), Figure.of(point)) for point in row["details"]["curve"]],
                chance=Figure.of(row["details"]["chance"]),
                rise=Figure.of(row["details"]["rise"]),
            )
            for row in results
            if row["metric"] == METRIC
        ]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"a row of {METRIC} is incomplete ({error!r}); make the report again"
        ) from error
    return sorted(
        curves, key=lambda each: (each.tag, cell_order(each.block, 0.0, each.conditioning))
    )


def emergence_chart(curves: Sequence[Curve]) -> Drawing:
    """Above, IoU over t with its 95 % band, a line a block and branch, and chance. Below, on the
    same axis, the t at which each line has emerged with its interval, and that of other readers. A
    moment marked above is the same below.

    Raises:
        UserError: no curves.
    """
    if not curves:
        raise UserError(
            "there are no curves of emergence to draw; evaluate composition at three moments or"
            " more"
        )
    colours = block_colours(blocks_of(curve.block for curve in curves))
    lower = _LINE * len(curves) + 0.1
    top, gap, bottom = 0.34, 0.2, 0.5
    width, height = _LEFT + _WIDTH + _RIGHT, top + _UPPER + gap + lower + bottom
    with matplotlib.rc_context(STYLE):
        figure = Drawing(figsize=(width, height))
        above = figure.add_axes(
            (_LEFT / width, (bottom + lower + gap) / height, _WIDTH / width, _UPPER / height)
        )
        below = figure.add_axes(
            (_LEFT / width, bottom / height, _WIDTH / width, lower / height), sharex=above
        )
        for line, curve in enumerate(curves):
            _draw_curve(above, curve, colours[curve.block])
            _draw_moment(below, curve, line, colours[curve.block])
        _draw_chance(above, curves)
        _finish(above, below, curves)
        figure.legend(
            handles=_legend(curves),
            loc="upper left",
            bbox_to_anchor=(_LEFT / width, 1),
            ncols=6,
            borderpad=0,
            columnspacing=1.4,
        )
    return figure


def _draw_curve(panel: Axes, curve: Curve, colour: str) -> None:
    known = [(t, each) for t, each in curve.points if each.value is not None]
    times, values = [t for t, _ in known], [each.value or 0.0 for _, each in known]
    bands = [each.ci95 or (value, value) for (_, each), value in zip(known, values, strict=True)]
    low, high = [low for low, _ in bands], [high for _, high in bands]
    panel.fill_between(times, low, high, color=colour, alpha=0.13, linewidth=0)
    panel.plot(
        times,
        values,
        color=colour,
        linestyle=LINES.get(curve.conditioning, ":"),
        linewidth=1.7,
        marker="o",
        markersize=2.5,
        label=curve.name,
    )
    if curve.reached.value is not None and values:
        target = curve.share * values[-1]
        panel.plot(
            [curve.reached.value],
            [target],
            marker="D",
            markersize=6,
            color=colour,
            markeredgecolor="white",
        )


def _draw_moment(panel: Axes, curve: Curve, line: int, colour: str) -> None:
    for name, marker in READERS.items():
        each = curve.readers.get(name)
        if (
            each is not None and each.value is not None
        ):  # below the prediction's own, so that none is hidden
            panel.plot(
                [each.value],
                [line + 0.27],
                marker=marker,
                markersize=4.5,
                color=MUTED,
                fillstyle="none",
            )
    own = line - 0.13
    if curve.between is not None:
        panel.hlines(own, *curve.between, color=MUTED, linewidth=0.7)
    if curve.reached.ci95 is not None:
        panel.hlines(own, *curve.reached.ci95, color=colour, linewidth=2.4)
    if curve.reached.value is not None:
        panel.plot(
            [curve.reached.value],
            [own],
            marker="D",
            markersize=6,
            color=colour,
            markeredgecolor="white",
        )
    beside = blended_transform_factory(panel.transAxes, panel.transData)
    panel.text(
        1.03, line, curve.reached.text(2), transform=beside, va="center", color=INK, fontsize=8
    )


def _draw_chance(panel: Axes, curves: Sequence[Curve]) -> None:
    level = next((curve.chance.value for curve in curves if curve.chance.value is not None), None)
    if level is not None:
        panel.axhline(level, color=MUTED, linewidth=0.9, linestyle=BASELINE_LINES[0])
        beside = blended_transform_factory(panel.transAxes, panel.transData)
        text = f"chance {number(level, 2)}"
        panel.text(1.03, level, text, transform=beside, va="center", color=MUTED, fontsize=8)


def _finish(above: Axes, below: Axes, curves: Sequence[Curve]) -> None:
    """Limits, ticks and labels."""
    times = sorted({t for curve in curves for t, _ in curve.points})
    pad = 0.02 * ((times[-1] - times[0]) or 1.0) if times else 0.02
    above.set_xlim((times[-1] if times else 1.0) + pad, (times[0] if times else 0.0) - pad)
    if len(times) <= 12:
        above.set_xticks(times, [number(t, 2) for t in times])
    ends = [
        end
        for curve in curves
        for _, each in (*curve.points, (0.0, curve.chance))
        for end in (each.value, *(each.ci95 or ()))
        if end is not None
    ]
    above.set_ylim(0, max(ends, default=1.0) * 1.06 or 1.0)
    above.set_ylabel("IoU")
    above.tick_params(labelbottom=False)
    below.set_ylim(len(curves) - 0.5, -0.5)
    several = len({curve.tag for curve in curves}) > 1
    names = [f"{curve.name} · {curve.tag}" if several else curve.name for curve in curves]
    below.set_yticks(range(len(curves)), names, color=INK)
    below.grid(visible=False, axis="y")
    below.set_xlabel(TIME_LABEL)
    text = f"at {100 * curves[0].share:g} % from t ="
    below.text(1.03, 1.0, text, transform=below.transAxes, va="bottom", color=MUTED, fontsize=8)


def _legend(curves: Sequence[Curve]) -> list[Line2D]:
    conditionings = conditionings_of(curve.conditioning for curve in curves)
    lines = [
        Line2D([], [], color=INK, linestyle=LINES.get(name, ":"), linewidth=1.7, label=name)
        for name in conditionings
    ]
    text = f"{100 * curves[0].share:g} % of last IoU"
    moment = Line2D([], [], color=INK, marker="D", linewidth=2.4, markersize=6, label=text)
    readers = [
        Line2D(
            [], [], color=MUTED, marker=marker, linestyle="", fillstyle="none", label=plain(name)
        )
        for name, marker in READERS.items()
        if any(name in curve.readers and curve.readers[name].value is not None for curve in curves)
    ]
    return [*lines, moment, *readers]
