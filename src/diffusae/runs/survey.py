"""The runs below a directory, and whether they are finished and whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusae.errors import UserError
from diffusae.files import again
from diffusae.runs.record import RECORD, DamagedRecord, RunRecord, read_record, run_fault, warn_once

SIGNS = ("manifest.json", "objects.parquet", "metrics.jsonl", "dictionary.json", "results.json")
"""Outputs that show a run whose run.json is lost."""


@dataclass(frozen=True)
class SurveyedRun:
    """A run below a directory. `fault` says why it does not count as finished."""

    directory: Path
    record: RunRecord | None
    fault: str | None

    @property
    def stage(self) -> str:
        """The stage that made it; "" if its run.json is damaged."""
        return "" if self.record is None else self.record.stage

    @property
    def status(self) -> str:
        """The status in run.json; "damaged" if run.json or an output has changed."""
        if self.record is None or (self.record.status == "finished" and self.fault is not None):
            return "damaged"
        return self.record.status

    @property
    def left_out(self) -> str:
        """The warning that this run is left out: the reason and the remedy."""
        return f"left out: {self.fault}; {again(self.stage or None)}"


def runs_below(
    directory: Path | str, pattern: str = "**", *, read: Sequence[str] = ()
) -> list[SurveyedRun]:
    """All runs whose directories below `directory` match the pattern, by path, also without
    run.json.

    The outputs of the stages in `read` are read; others are checked as in `run_fault`.
    """
    runs = []
    root, names = Path(directory), (RECORD, *SIGNS)
    places = {path.parent for name in names for path in root.glob(f"{pattern}/{name}")}
    for place in sorted(places):
        record, fault = None, f"{place} has no {RECORD}"
        try:
            record = read_record(place)
        except DamagedRecord:
            fault = f"{place / RECORD} is damaged, not as it was written"
        except UserError as error:
            fault = str(error)
        if record is not None:
            fault = run_fault(place, record, read=record.stage in read)
        runs.append(SurveyedRun(place, record, fault))
    return runs


def finished_runs(directory: Path | str, pattern: str = "**") -> Iterator[tuple[Path, RunRecord]]:
    """The directories and records of finished, whole runs of `runs_below`. Others are logged."""
    for run in runs_below(directory, pattern):
        if run.fault is not None:
            warn_once(run.left_out)
        elif run.record is not None:
            yield run.directory, run.record
