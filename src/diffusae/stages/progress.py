"""The one progress bar of the stages: what is at hand, how much is done, the rate, and the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytorch_lightning as pl
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Advance = Callable[[int], None]


@contextmanager
def progress_bar(what: str, *, total: int, done: int = 0) -> Iterator[tuple[Advance, Callable[[str], None]]]:
    """Yield `advance(count)` and `name(description)`; nothing is shown where nothing is left to do."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    rate = TextColumn("{task.fields[rate]}")
    with Progress(
        *columns, rate, TimeElapsedColumn(), TimeRemainingColumn(), disable=done >= total
    ) as progress:
        bar = progress.add_task(what, total=total, completed=done, rate="")

        def advance(count: int = 1) -> None:
            progress.advance(bar, count)
            speed = progress.tasks[0].speed
            progress.update(bar, rate=f"{speed:.2f} {what}/s" if speed else "")

        def name(description: str) -> None:
            progress.update(bar, description=description)

        yield advance, name


class TrainingProgress(pl.Callback):
    """The bar over the steps of a whole training, brought up to date every so many steps. (Lightning's own bars know of
    epochs only.)
    """

    def __init__(self, *, every: int) -> None:
        self.every = every
        self._open = ExitStack()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            bar = progress_bar("steps", total=trainer.max_steps, done=trainer.global_step)
            self._advance, self._name = self._open.enter_context(bar)
            self._shown = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *_args: Any, **_kwargs: Any) -> None:
        step = trainer.global_step
        if trainer.is_global_zero and (step % self.every == 0 or step == trainer.max_steps):
            self._advance(step - self._shown)
            self._shown = step
            if (fvu := trainer.callback_metrics.get("train/fvu")) is not None:
                self._name(f"steps, FVU {float(fvu):.3f}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._open.close()

    def on_exception(self, *_args: Any) -> None:
        self._open.close()
