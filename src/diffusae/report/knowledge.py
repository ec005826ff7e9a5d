"""What blocks and moments know, as the report reads it: accuracies by task and reader,
and purity of latents.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from diffusae.errors import UserError
from diffusae.evaluation.result import Estimate, Result
from diffusae.report.tables import Row, number, plain, rows_of

PREFIX = "accuracy_"
READERS = {
    "updates": "linear probe, updates",
    "codes": "linear probe, SAE codes",
    "diff_c": "Diff-C, updates",
}


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
