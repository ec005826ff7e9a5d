"""Checkpoints from which a killed training goes on as if it had never stopped."""

from __future__ import annotations

import io
import logging
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from diffusae.errors import UserError
from diffusae.files import atomic_path, atomic_write_json, digest_of, sha256_of
from diffusae.parsing import read_json, reading, typed
from diffusae.runs.metric_log import MetricLog, read_metrics

logger = logging.getLogger(__name__)

KEPT = 2
"""Checkpoints that are kept: one to go on from, and one before it, should that one be damaged."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: the file, and the steps that were done when it was written."""

    path: Path
    step: int


class InPlace(TorchCheckpointIO):
    """Writes a checkpoint where it is to lie. Lightning's own way leads through the machine's
    temporary folder, which may be small, and where a kill would leave it."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        buffer = io.BytesIO()  # torch hides what goes wrong with a file
        torch.save(checkpoint, buffer)
        Path(path).write_bytes(buffer.getbuffer())

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Tensors and plain values alone, whoever asks: a checkpoint may have been put there by
        anyone."""
        return super().load_checkpoint(path, map_location=map_location, weights_only=True)


class AfterStep(pl.Callback, ABC):
    """Calls `after_step` where a training may be left and taken up again: when all that belongs to
    a step is done.

    That is after its validation where it has one: Lightning does not make up for it. And not after
    the last step, whose weights are not the result yet (`on_train_end` averages them) and of which
    Lightning takes up nothing.
    """

    @abstractmethod
    def after_step(self, trainer: pl.Trainer) -> None:
        """What is to be done; Lightning ends the training afterwards where a SIGTERM was
        received."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_args: Any, **_kwargs: Any) -> None:
        if not _is_last(trainer) and not _has_validation(trainer):
            self.after_step(trainer)

    def on_validation_end(self, trainer: pl.Trainer, *_args: Any, **_kwargs: Any) -> None:
        if not _is_last(trainer) and not trainer.sanity_checking:
            self.after_step(trainer)


def _is_last(trainer: pl.Trainer) -> bool:
    return trainer.global_step == trainer.max_steps


def _has_validation(trainer: pl.Trainer) -> bool:
    """Whether validation follows the step at hand, which our trainings count through all epochs."""
    every = trainer.val_check_batch
    if (
        trainer.check_val_every_n_epoch is not None
        or not trainer.enable_validation
        or every is None
    ):
        return False
    return trainer.global_step % every == 0


@dataclass(frozen=True, kw_only=True)
class _Beginning:
    """What a metric log held when a checkpoint was written: its first `size` bytes, and their
    SHA-256."""

    size: int
    sha256: str

    @classmethod
    def of(cls, log: Path, size: int | None = None) -> _Beginning:
        """The first `size` bytes of a log, or all that are there; a missing log is an empty one."""
        content = log.read_bytes()[:size] if log.is_file() else b""
        return cls(size=len(content), sha256=digest_of(content))


@dataclass(frozen=True, kw_only=True)
class _Note:
    """What the file beside a checkpoint says: the SHA-256 of the checkpoint, and the metric logs up
    to it."""

    sha256: str
    logs: dict[str, _Beginning] = field(default_factory=dict)


def _whole(path: Path, note: Path, logs: Mapping[str, Path]) -> int:
    """The steps of a checkpoint, once its bytes, and those of the metric logs up to it, are those
    that were written; no pickle is opened.

    Raises:
        FileNotFoundError, UserError: it is missing or damaged.
    """
    remedy = f"checkpoint {path.name} is not used, but an earlier one, or none"
    value = read_json(note, remedy=remedy)
    with reading(note, remedy=remedy):
        expected = typed(_Note, value)
    for name in logs.keys() & expected.logs.keys():
        beginning = expected.logs[name]
        with reading(logs[name], remedy=remedy):
            if _Beginning.of(logs[name], beginning.size) != beginning:
                raise UserError(
                    f"its first {beginning.size} bytes are not those that the training wrote"
                )
    with reading(path, remedy=remedy):
        if (digest := sha256_of(path)) != expected.sha256:
            raise UserError(f"SHA-256 is {digest}, expected {expected.sha256}")
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        step = int(path.stem.partition("-")[2])
        if not state.keys() >= _PARTS or state["global_step"] != step:
            raise UserError(f"it is no checkpoint of step {step}")
        return step


_PARTS = {"global_step", "state_dict", "optimizer_states", "loops"}
"""Of Lightning's checkpoints, without which a training cannot go on."""


class Checkpoints(AfterStep):
    """Writes `step-<n>.ckpt` every so many steps and on SIGTERM, and then `step-<n>.json` with the
    SHA-256 of it and of the metric logs so far.

    Not after the last step of `max_steps`: from there Lightning would neither validate nor end the
    training (put the moving average in the weights' place), so a training that is killed before its
    result is saved goes on from before.

    Args:
        directory: of this training alone.
        every: steps between two checkpoints.
        logs: the metric logs, whose rows after the checkpoint are taken back on resuming.
    """

    def __init__(self, directory: Path | str, *, every: int, logs: Sequence[Path | str]) -> None:
        self.directory, self.every = Path(directory), every
        self.metric_logs = {os.path.relpath(log, directory): Path(log) for log in logs}

    def after_step(self, trainer: pl.Trainer) -> None:
        if trainer.global_step % self.every == 0 or trainer.received_sigterm:
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Write a checkpoint of the steps done, unless there is one or none is left; every process
        must call it.

        Weights that are not finite are not saved: from them a training could only fail again.
        """
        path = self.directory / f"step-{trainer.global_step:09d}.ckpt"
        if trainer.global_step == trainer.max_steps:
            return
        if path.with_suffix(".json").exists():
            return
        if not all(
            torch.isfinite(weights).all() for weights in trainer.lightning_module.parameters()
        ):
            logger.warning(
                "the weights are not finite after step %d: no checkpoint", trainer.global_step
            )
            return
        if not trainer.is_global_zero:
            # Takes part in the collective; the first rank alone writes
            trainer.save_checkpoint(path)
            return
        with atomic_path(path) as temporary:
            trainer.save_checkpoint(temporary)
        logs = {name: _Beginning.of(log) for name, log in self.metric_logs.items()}
        atomic_write_json(
            path.with_suffix(".json"), asdict(_Note(sha256=sha256_of(path), logs=logs))
        )
        for old in sorted(self.directory.glob("step-*.json"))[:-KEPT]:
            old.unlink()
            old.with_suffix(".ckpt").unlink(missing_ok=True)

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint, or None. A damaged one is named, and the one before it is
        taken."""
        for note in sorted(self.directory.glob("step-*.json"), reverse=True):
            path = note.with_suffix(".ckpt")
            try:
                return Checkpoint(path, _whole(path, note, self.metric_logs))
            except (UserError, FileNotFoundError) as error:
                logger.warning("%s", error)
        return None

    def resume(self) -> Checkpoint | None:
        """`newest`, with the metric logs cut back to its steps; without a checkpoint the logs are
        removed."""
        newest = self.newest()
        for path in self.metric_logs.values():
            if newest is None:
                path.unlink(missing_ok=True)
            elif path.exists():
                rows = [row for row in read_metrics(path) if row["step"] < newest.step]
                with atomic_path(path) as temporary, MetricLog(temporary) as log:
                    for row in rows:
                        log.log(row)
        return newest

    def clear(self) -> None:
        """Remove all checkpoints, once the result is saved."""
        shutil.rmtree(self.directory, ignore_errors=True)
