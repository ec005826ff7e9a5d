"""What blocks and moments know, as the report reads and draws it: accuracies by task and reader,
and purity of latents.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from diffusae.errors import UserError
from diffusae.evaluation.result import Estimate, Result
from diffusae.report.plots import TIME_LABEL
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

PREFIX = "accuracy_"
READERS = {
    "updates": "linear probe, updates",
    "codes": "linear probe, SAE codes",
    "diff_c": "Diff-C, updates",
}
_PIXELS, _MAJORITY = (0, (6, 1.5)), BASELINE_LINES[0]
_RANDOM = (0, (1, 1))
_PANEL = (1.85, 1.5)


@dataclass(frozen=True)
class Best:
    """The cell in which a reader reads a task best, as the tuning pictures choose it, and its
    figure on the test pictures.

    Attributes:
        row: of the cell.
        alike: cells, itself among them, whose intervals overlap with its own.
        cells: all that have data.
    """

    row: Row
    alike: int
    cells: int

    @property
    def place(self) -> str:
        """Such as "up, t = 0.25"."""
        return f"{self.row.block}, t = {number(self.row.t, 2)}"


@dataclass(frozen=True)
class Answer:
    """Where one task is known, reader by reader; `n` test pictures. `random` is the highest of all
    cells and readers.
    """

    task: str
    n_classes: int
    n: int
    majority: Estimate | None
    pixels: Estimate | None
    random: Estimate | None
    best: Mapping[str, Best]

    @property
    def leading(self) -> tuple[str, Best]:
        """The reader that is best on the tuning pictures, and its cell."""
        return max(
            self.best.items(),
            key=lambda reader: float(reader[1].row.details.get("tune_accuracy", 0.0)),
        )

    @property
    def uncleared(self) -> list[str]:
        """The baselines that the leading reader's interval does not clear; of random weights the
        highest of all cells.
        """
        row = self.leading[1].row
        rivals = {"majority": self.majority, "pixels": self.pixels, "random weights": self.random}
        return [
            name
            for name, rival in rivals.items()
            if rival is not None and row.clears(rival) is False
        ]

    @property
    def sentence(self) -> str:
        """Such as "style 0.97 (down, t = 0.00, Diff-C, updates)"."""
        reader, best = self.leading
        return (
            f"{plain(self.task)} {number(best.row.figure.value, 2)} ({best.place},"
            f" {READERS[reader]})"
        )


def by_task(results: Iterable[Result]) -> dict[str, dict[str, list[Row]]]:
    """Task -> reader -> its rows, tasks and readers in the order in which they appear.

    Raises:
        UserError: a row that lacks a field.
    """
    results = list(results)
    by_reader: dict[str, dict[str, list[Row]]] = {}
    for metric in dict.fromkeys(row.metric for row in results):
        if metric.startswith(PREFIX):
            rows = rows_of(results, metric)
            try:
                task, reader = str(rows[0].details["task"]), str(rows[0].details["reader"])
            except KeyError as error:
                raise UserError(
                    f"a row of {metric} is incomplete ({error!r}); evaluate this cell again"
                ) from error
            by_reader.setdefault(task, {})[reader] = rows
    return by_reader


def answers_of(results: Iterable[Result]) -> list[Answer]:
    """One answer a task that has data."""
    answers = []
    for task, readers in by_task(results).items():
        best = {
            name: chosen for name, rows in readers.items() if (chosen := _best(rows)) is not None
        }
        if not best:
            continue
        rows = [row for of_reader in readers.values() for row in of_reader]
        first = next(iter(best.values())).row
        answers.append(
            Answer(
                task=task,
                n_classes=int(first.details.get("n_classes", 0)),
                n=first.figure.n,
                majority=first.baselines.get("majority"),
                pixels=first.baselines.get("pixels"),
                random=max(
                    (
                        figure
                        for row in rows
                        if (figure := row.baselines.get("random_weights")) and figure.value
                    ),
                    key=lambda figure: figure.value or 0.0,
                    default=None,
                ),
                best=best,
            )
        )
    return answers


def _best(rows: Sequence[Row]) -> Best | None:
    known = [row for row in rows if row.figure.value is not None]
    if not known:
        return None
    best = max(known, key=lambda row: float(row.details.get("tune_accuracy", 0.0)))
    value = best.figure.value or 0.0
    low, high = best.figure.ci95 or (value, value)
    alike = sum(
        row.figure.ci95 is not None and row.figure.ci95[0] <= high and row.figure.ci95[1] >= low
        for row in known
    )
    return Best(best, alike, len(known))


def knowledge_chart(results: Iterable[Result]) -> Drawing:
    """Accuracy against t: a column a task, a line of panels a reader, a colour a block, with
    intervals and baselines.

    Raises:
        UserError: no accuracies.
    """
    tasks = by_task(results)
    if not tasks:
        raise UserError(
            "there are no accuracies to draw; run `diffusae evaluate evaluation=knowledge`"
        )
    readers = [name for name in READERS if any(name in readers_of for readers_of in tasks.values())]
    rows = [
        row
        for readers_of in tasks.values()
        for of_reader in readers_of.values()
        for row in of_reader
    ]
    blocks, times = blocks_of(row.block for row in rows), times_of(row.t for row in rows)
    colours = block_colours(blocks)
    with matplotlib.rc_context(STYLE):
        left, right, gap, between, top, bottom = 0.78, 0.1, 0.14, 0.2, 0.62, 0.45
        width = left + len(tasks) * _PANEL[0] + (len(tasks) - 1) * gap + right
        height = top + len(readers) * _PANEL[1] + (len(readers) - 1) * between + bottom
        figure = Drawing(figsize=(width, height))
        axes = figure.subplots(len(readers), len(tasks), sharex=True, sharey=True, squeeze=False)
        figure.subplots_adjust(
            left=left / width,
            right=1 - right / width,
            top=1 - top / height,
            bottom=bottom / height,
            wspace=gap / _PANEL[0],
            hspace=between / _PANEL[1],
        )
        for column, (task, of_task) in enumerate(tasks.items()):
            axes[0, column].set_title(task)
            for line, reader in enumerate(readers):
                _draw_panel(axes[line, column], of_task.get(reader, []), colours)
        for line, reader in enumerate(readers):
            axes[line, 0].set_ylabel(READERS[reader].replace(", ", "\n"))
        for panel in axes[-1]:
            panel.set_xlabel(TIME_LABEL if len(tasks) == 1 else "t")
        pad = 0.05 * (times[0] - times[-1]) or 0.5
        axes[0, 0].set_xlim(times[0] + pad, times[-1] - pad)
        axes[0, 0].set_ylim(0, 1.03)
        axes[0, 0].set_xticks([t for t in (1.0, 0.5, 0.0) if times[-1] <= t <= times[0]] or times)
        figure.legend(
            handles=_handles(rows, colours),
            loc="upper left",
            bbox_to_anchor=(left / width, 1),
            ncols=12,
            borderpad=0,
            columnspacing=1.2,
            handlelength=1.8,
        )
    return figure


def _draw_panel(panel: Axes, rows: Sequence[Row], colours: Mapping[str, str]) -> None:
    for name, style in (("pixels", _PIXELS), ("majority", _MAJORITY)):
        level = next((figure.value for row in rows if (figure := row.baselines.get(name))), None)
        if level is not None:
            panel.axhline(level, color=MUTED, linewidth=0.9, linestyle=style)
    for block in blocks_of(row.block for row in rows):
        for conditioning in conditionings_of(row.conditioning for row in rows):
            line = [row for row in rows if (row.block, row.conditioning) == (block, conditioning)]
            if line:
                _draw_line(panel, line, colours[block], conditioning)


def _draw_line(panel: Axes, rows: Sequence[Row], colour: str, conditioning: str) -> None:
    def values(figures: Sequence[Estimate | None]) -> list[float]:
        return [
            np.nan if figure is None or figure.value is None else figure.value for figure in figures
        ]

    times = [row.t for row in rows]
    ends = [row.figure.ci95 or (np.nan, np.nan) for row in rows]
    panel.fill_between(
        times,
        [low for low, _ in ends],
        [high for _, high in ends],
        color=colour,
        alpha=0.13,
        linewidth=0,
    )
    # The only branch of a study is drawn whole, whichever it is.
    style = LINES.get(conditioning, ":") if conditioning == "cond" else "-"
    panel.plot(
        times,
        values([row.figure for row in rows]),
        color=colour,
        linewidth=1.6,
        linestyle=style,
        marker="o" if conditioning != "cond" else "s",
        markersize=2.8,
    )
    random = values([row.baselines.get("random_weights") for row in rows])
    if np.isfinite(random).any():
        panel.plot(times, random, color=colour, linewidth=1.0, linestyle=_RANDOM, alpha=0.8)


def _handles(rows: Sequence[Row], colours: Mapping[str, str]) -> list[Line2D]:
    handles = [
        Line2D([], [], color=colour, linewidth=1.8, marker="o", markersize=3, label=block)
        for block, colour in colours.items()
    ]
    shown = {name for row in rows for name in row.baselines}
    for name, style, colour, label in (
        ("random_weights", _RANDOM, INK, "random weights"),
        ("pixels", _PIXELS, MUTED, "pixels"),
        ("majority", _MAJORITY, MUTED, "majority class"),
    ):
        if name in shown:
            handles.append(
                Line2D([], [], color=colour, linewidth=1.0, linestyle=style, label=label)
            )
    return handles
