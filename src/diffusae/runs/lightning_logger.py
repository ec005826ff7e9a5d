"""Loggers that write Lightning's metrics to metric logs, and to a mirror if there is one."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.loggers.logger import Logger

from diffusae.runs.metric_log import MetricLog


class Mirror(Protocol):
    """Anything that takes metrics at a step, such as `WandbMirror`."""

    def log(self, metrics: Mapping[str, Any], *, step: int) -> None: ...


class _NextToRunJson(Logger):
    """A logger beside a run.json, which has the whole configuration."""

    @property
    def version(self) -> None:
        """None: a directory holds one run."""
        return None

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Do nothing."""


class JsonlLogger(_NextToRunJson):
    """A Lightning logger that writes one row {"step", metric: value, ...} per call.

    Args:
        path: the JSONL file, opened at the first row.
        mirror: an object that gets the same metrics at the same step.
    """

    def __init__(self, path: Path | str, *, mirror: Mirror | None = None) -> None:
        super().__init__()
        self.path = Path(path)
        self.mirror = mirror
        self._log: MetricLog | None = None

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    @property
    def save_dir(self) -> str:
        """The directory of the file."""
        return str(self.path.parent)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one row and pass it to the mirror."""
        if self._log is None:
            self._log = MetricLog(self.path)
        self._log.log({"step": step, **metrics})
        if self.mirror is not None and step is not None:
            self.mirror.log(metrics, step=step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close the file. A later row opens it again."""
        if self._log is not None:
            self._log.close()
            self._log = None


class MemberLogger(_NextToRunJson):
    """A Lightning logger for parallel trainings: a metric `<member>/...` goes to that member's
    file.

    Args:
        paths: member -> its JSONL file, opened at the first row.
        batches: member -> batches per epoch, from which the row's `epoch` is computed.
    """

    def __init__(self, paths: Mapping[str, Path], *, batches: Mapping[str, int]) -> None:
        super().__init__()
        self._loggers = {member: JsonlLogger(path) for member, path in paths.items()}
        self._batches = dict(batches)

    @property
    def name(self) -> None:
        """None: every member has its own file."""
        return None

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a row to the file of every member with metrics in it."""
        for member, logger in self._loggers.items():
            own = {
                key.removeprefix(f"{member}/"): value
                for key, value in metrics.items()
                if key.startswith(f"{member}/")
            }
            if own:
                epoch = {} if step is None else {"epoch": step // self._batches[member]}
                logger.log_metrics({**own, **epoch}, step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close the files."""
        for logger in self._loggers.values():
            logger.finalize(status)
