"""The table of jobs at the end of a multirun, and of cells at the end of `run`.

Without it, Hydra ends a multirun at its first error.
"""

from __future__ import annotations

import atexit
import json
import logging
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from diffusae.errors import USER_FAULT
from diffusae.files import atomic_path, atomic_write_json
from diffusae.jobs.faults import is_users, reason
from diffusae.jobs.lost_jobs import LOST, report_lost_jobs
from diffusae.masking import mask_output, masked, masked_value
from diffusae.stopping import raise_if_received

log = logging.getLogger(__name__)

STYLES = {"done": "green", "skipped": "dim", "failed": "bold red"}


@dataclass(frozen=True)
class JobOutcome:
    """One line of the table.

    Attributes:
        job: the overrides that not all jobs share.
        why: the reason of a failure.
    """

    cell: str
    outcome: Literal["done", "skipped", "failed"]
    why: str = ""
    job: str = ""
    seconds: float = 0.0


def print_outcomes(outcomes: Sequence[JobOutcome]) -> bool:
    """Print the table of every outcome; return whether none failed."""
    counts = Counter(row.outcome for row in outcomes)
    counted = ", ".join(f"{counts[name]} {name}" for name in STYLES if counts[name])
    failed = counts["failed"]
    title = f"{failed} of {len(outcomes)} jobs failed ({counted})" if failed else counted
    table = Table(title=title)
    jobs = any(row.job for row in outcomes)
    for column in ("cell", *(("job",) if jobs else ()), "outcome", "seconds", "why"):
        justify = "right" if column == "seconds" else "left"
        table.add_column(column, overflow="fold", justify=justify, no_wrap=column == "cell")
    for row in outcomes:
        names = [row.cell, row.job] if jobs else [row.cell]
        why = masked(row.why) or ("finished already" if row.outcome == "skipped" else "")
        table.add_row(  # Text: no markup in names and messages
            *(Text(masked(name)) for name in names),
            Text(row.outcome, style=STYLES[row.outcome]),
            f"{row.seconds:.1f}",
            Text(why),
        )
    console = Console(stderr=True)
    if not console.is_terminal:  # a log has whole lines
        console = Console(stderr=True, width=Console(width=100_000).measure(table).maximum)
    console.print(table)
    if failed:
        console.print("The same command runs only the failed ones again.")
    return not failed


class OutcomeTable(Callback):
    """Ends a multirun with the table of its jobs, and with a non-zero exit code where one failed.

    A failed job is logged at once and then counts as returned for Hydra, so that its sweeper
    continues. Until the end, outcomes are small files beside the logs, because a launcher may run
    jobs in other processes or on other machines. A job that has begun and has no other outcome was
    killed.
    """

    open: ClassVar[OutcomeTable | None] = None
    """The table of this process's multirun, from its start to its printing."""

    def __init__(self) -> None:
        self._kept = Path("outcomes")
        self._begun = 0.0

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the directory of the outcomes."""
        self._kept = Path(config.hydra.sweep.dir).absolute() / f".outcomes-{time.time_ns()}"
        self._kept.mkdir(parents=True)
        atexit.register(shutil.rmtree, self._kept, ignore_errors=True)
        OutcomeTable.open = self
        if "submitit" in str(OmegaConf.select(config, "hydra.launcher._target_")):
            atexit.register(report_lost_jobs(self._lost))

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Record that the job has begun; its own process must mask secrets first."""
        mask_output()
        _mask_yaml(Path(OmegaConf.select(config, "hydra.sweep.dir") or ".") / "multirun.yaml")
        self._begun = time.monotonic()
        if config.hydra.mode == RunMode.MULTIRUN:
            job = " ".join(OmegaConf.select(config, "hydra.overrides.task") or ())
            self._keep(config.hydra.job.num, JobOutcome(_cell_name(config), "failed", LOST, job))

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Store the job's outcome."""
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        outcome, why = "done", ""
        try:
            if job_return.return_value is False:
                outcome = "skipped"
        except Exception as error:
            raise_if_received()  # an error caused by a signal to stop is no failure of the job
            outcome, why = "failed", reason(error)
            log.error(why, exc_info=None if is_users(error) else error)
            job_return.return_value, job_return.status = None, JobStatus.COMPLETED
        job, seconds = " ".join(job_return.overrides or ()), time.monotonic() - self._begun
        row = JobOutcome(_cell_name(job_return.cfg), outcome, why, job, seconds)
        self._keep(config.hydra.job.num, row)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table."""
        OutcomeTable.open = None
        if not print_outcomes(_shortened(self._outcomes())):
            raise SystemExit(USER_FAULT)  # Hydra turns a callback's other errors into warnings

    def end_broken(self, error: BaseException) -> bool:
        """Print the table of a multirun whose launcher gave up; False: no job had begun."""
        OutcomeTable.open = None
        outcomes = self._outcomes()
        if outcomes:
            # Not by the log: Hydra's log of this process may show nothing of ours.
            print(
                f"the launcher gave up: {reason(error)}; jobs that are not in the table never"
                " began",
                file=sys.stderr,
            )
            print_outcomes(_shortened(outcomes))
        return bool(outcomes)

    def _lost(self, number: int, overrides: Sequence[str], why: str) -> None:
        begun = self._kept / f"{number:06d}.json"
        cell = json.loads(begun.read_text(encoding="utf-8"))["cell"] if begun.exists() else ""
        self._keep(number, JobOutcome(cell, "failed", why, " ".join(overrides)))

    def _keep(self, number: int, outcome: JobOutcome) -> None:
        atomic_write_json(self._kept / f"{number:06d}.json", asdict(outcome))

    def _outcomes(self) -> list[JobOutcome]:
        files = sorted(self._kept.glob("*.json"))
        return [JobOutcome(**json.loads(path.read_text(encoding="utf-8"))) for path in files]


def _mask_yaml(path: Path) -> None:
    """Mask the secrets in the overrides that Hydra's sweeper has written to a file."""
    if not path.exists() or (text := path.read_text(encoding="utf-8")) == masked(text):
        return
    shown = masked_value(OmegaConf.to_container(OmegaConf.load(path), resolve=False))
    with atomic_path(path) as temporary:
        OmegaConf.save(OmegaConf.create(shown), temporary)


def _cell_name(cfg: Any) -> str:
    from diffusae.activations.schema import Cell  # not before the first job: composing stays fast

    try:
        cell = Cell(cfg.model.name, cfg.block.name, cfg.timestep.t, cfg.conditioning.branch)
        return f"{cell.key}-{cfg.sae.tag}"
    except Exception:  # the job's own failure names the fault, or its stage has no cells
        return ""


def _shortened(outcomes: Sequence[JobOutcome]) -> list[JobOutcome]:
    """The same, without the overrides that all jobs share."""
    named = [row.job.split(" ") for row in outcomes]
    counts = Counter(override for overrides in named for override in set(overrides))
    shared = {override for override, count in counts.items() if count == len(outcomes)}
    return [
        replace(row, job=" ".join(override for override in overrides if override not in shared))
        for row, overrides in zip(outcomes, named, strict=True)
    ]
