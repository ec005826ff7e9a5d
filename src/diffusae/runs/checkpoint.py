"""Checkpoints, from which a killed training continues with the same result."""

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
"""Number of kept checkpoints: the newest, and one before it in case the newest is damaged."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: the file, and the number of steps done."""

    path: Path
    step: int

    @property
    def of_shards(self) -> bool:
        """Whether there are parts beside it (`diffusae.jobs.latent_shards`)."""
        return self.path.with_suffix("").is_dir()


class InPlace(TorchCheckpointIO):
    """Writes a checkpoint directly to its path. Lightning would first write it to the machine's
    temporary folder, which may be small, and where a kill would leave it."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        buffer = io.BytesIO()  # torch hides the faults of a file
        torch.save(checkpoint, buffer)
        Path(path).write_bytes(buffer.getbuffer())

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load only tensors and plain values, since anyone may have written the checkpoint."""
        return super().load_checkpoint(path, map_location=map_location, weights_only=True)


class AfterStep(pl.Callback, ABC):
    """Calls `after_step` when a step is complete, so that a training can be stopped and resumed
    there.

    A step with validation is complete after it, since a resumed training would skip it. The last
    step does not count: its weights are not final (`on_train_end` averages them), and Lightning
    cannot resume from it.
    """

    @abstractmethod
    def after_step(self, trainer: pl.Trainer) -> None:
        """The work after a complete step. After a SIGTERM, Lightning then ends the training."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_args: Any, **_kwargs: Any) -> None:
        if not _is_last(trainer) and not _has_validation(trainer):
            self.after_step(trainer)

    def on_validation_end(self, trainer: pl.Trainer, *_args: Any, **_kwargs: Any) -> None:
        if not _is_last(trainer) and not trainer.sanity_checking:
            self.after_step(trainer)


def _is_last(trainer: pl.Trainer) -> bool:
    return trainer.global_step == trainer.max_steps


def _has_validation(trainer: pl.Trainer) -> bool:
    """Whether validation follows the current step. Our trainings count steps through all epochs."""
    every = trainer.val_check_batch
    if trainer.check_val_every_n_epoch is not None or every is None:
        return False
    return trainer.enable_validation and trainer.global_step % every == 0


@dataclass(frozen=True, kw_only=True)
class _Beginning:
    """A metric log at the time of a checkpoint: the number of bytes, and their SHA-256."""

    size: int
    sha256: str

    @classmethod
    def of(cls, log: Path, size: int | None = None) -> _Beginning:
        """The first `size` bytes of a log (None: all). A missing log is empty."""
        content = log.read_bytes()[:size] if log.is_file() else b""
        return cls(size=len(content), sha256=digest_of(content))


@dataclass(frozen=True, kw_only=True)
class _Note:
    """The file beside a checkpoint: the SHA-256 of it and of its parts, and the metric logs up to
    it.
    """

    sha256: str
    logs: dict[str, _Beginning] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)


def _parts(path: Path) -> dict[str, str]:
    """The SHA-256 of the parts that processes have written beside a checkpoint."""
    return {part.name: sha256_of(part) for part in sorted(path.with_suffix("").glob("*"))}


def _whole(path: Path, note: Path, logs: Mapping[str, Path]) -> int:
    """The steps of a checkpoint, after a check of its bytes and of the metric logs. Opens no
    pickle.

    Raises:
        FileNotFoundError, UserError: the checkpoint is missing or damaged.
    """
    remedy = f"checkpoint {path.name} is not used, but an earlier one or none"
    value = read_json(note, remedy=remedy)
    with reading(note, remedy=remedy):
        expected = typed(_Note, value)
    for name in logs.keys() & expected.logs.keys():
        beginning = expected.logs[name]
        with reading(logs[name], remedy=remedy):
            if _Beginning.of(logs[name], beginning.size) != beginning:
                raise UserError(f"its first {beginning.size} bytes have changed since training")
    with reading(path, remedy=remedy):
        if (digest := sha256_of(path)) != expected.sha256:
            raise UserError(f"SHA-256 is {digest}, expected {expected.sha256}")
        if _parts(path) != expected.parts:
            raise UserError(f"parts in {path.with_suffix('')} are missing or have changed")
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        step = int(path.stem.partition("-")[2])
        if not state.keys() >= _PARTS or state["global_step"] != step:
            raise UserError(f"it is no checkpoint of step {step}")
        return step


_PARTS = {"global_step", "state_dict", "optimizer_states", "loops"}
"""Parts of Lightning's checkpoints that a training needs to continue."""


class Checkpoints(AfterStep):
    """Writes `step-<n>.ckpt` every `every` steps and on SIGTERM, and then `step-<n>.json` with the
    SHA-256 of it and of the metric logs.

    There is none after the last step: from there Lightning would neither validate nor end the
    training (replace the weights by the moving average). So a training that is killed before its
    result is saved continues from an earlier checkpoint.

    Args:
        directory: the directory of this training's checkpoints, and of nothing else.
        every: steps between two checkpoints.
        logs: the metric logs. Resuming removes their rows after the checkpoint.
    """

    def __init__(self, directory: Path | str, *, every: int, logs: Sequence[Path | str]) -> None:
        self.directory, self.every = Path(directory), every
        self.metric_logs = {os.path.relpath(log, directory): Path(log) for log in logs}

    def after_step(self, trainer: pl.Trainer) -> None:
        if trainer.global_step % self.every == 0 or trainer.received_sigterm:
            self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Write a checkpoint, unless it exists or no step is left. Every process must call it.

        Non-finite weights are not saved, since a training could not continue from them.
        """
        path = self.directory / f"step-{trainer.global_step:09d}.ckpt"
        if _is_last(trainer) or path.with_suffix(".json").exists():
            return
        parameters = trainer.lightning_module.parameters()
        finite = all(bool(torch.isfinite(weights).all()) for weights in parameters)
        if not trainer.strategy.reduce_boolean_decision(finite):
            step = trainer.global_step
            logger.warning("the weights are not finite after step %d: no checkpoint", step)
            return
        if not trainer.is_global_zero:
            trainer.save_checkpoint(path)  # a collective operation; only the first rank writes
            return
        with atomic_path(path) as temporary:
            trainer.save_checkpoint(temporary)
        logs = {name: _Beginning.of(log) for name, log in self.metric_logs.items()}
        note = _Note(sha256=sha256_of(path), logs=logs, parts=_parts(path))
        atomic_write_json(path.with_suffix(".json"), asdict(note))
        for old in sorted(self.directory.glob("step-*.json"))[:-KEPT]:
            old.unlink()
            old.with_suffix(".ckpt").unlink(missing_ok=True)
            shutil.rmtree(old.with_suffix(""), ignore_errors=True)

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint, or None. Damaged ones are logged and skipped."""
        for note in sorted(self.directory.glob("step-*.json"), reverse=True):
            path = note.with_suffix(".ckpt")
            try:
                return Checkpoint(path, _whole(path, note, self.metric_logs))
            except (UserError, FileNotFoundError) as error:
                logger.warning("%s", error)
        return None

    def resume(self) -> Checkpoint | None:
        """`newest`, with the metric logs cut to its steps. Without a checkpoint the logs are
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
