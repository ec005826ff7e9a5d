"""What runs lie below a directory, and which of them count as finished: one answer for all that is
made of many runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusae.errors import UserError
from diffusae.files import again
from diffusae.runs.record import RECORD, DamagedRecord, RunRecord, read_record, run_fault, warn_once

SIGNS = ("manifest.json", "objects.parquet", "metrics.jsonl", "dictionary.json", "results.json")
"""Files that a run leaves, by which one that has lost its run.json is known."""


@dataclass(frozen=True)
class SurveyedRun:
    """A run that lies somewhere below a directory; `fault` says why it does not count as
    finished."""

    directory: Path
    record: RunRecord | None
    fault: str | None

    @property
    def stage(self) -> str:
        """What made it; "" where its run.json is damaged."""
        return "" if self.record is None else self.record.stage

    @property
    def status(self) -> str:
        """As run.json has it; "damaged" where that, or an output, is not as it was written."""
        if self.record is None or (self.record.status == "finished" and self.fault is not None):
            return "damaged"
        return self.record.status

    @property
    def left_out(self) -> str:
        """The warning of what leaves this run out: why, and what makes it whole again."""
        return f"left out: {self.fault}; {again(self.stage or None)}"


def runs_below(
    directory: Path | str, pattern: str = "**", *, read: Sequence[str] = ()
) -> list[SurveyedRun]:
    """Every run whose directory, below `directory`, has a name of the pattern, by path; also those
    whose run.json is lost.

    Outputs of the stages that `read` names are read, those of the others looked at as in
    `run_fault`.
    """
    runs = []
    places = {
        path.parent
        for sign in (RECORD, *SIGNS)
        for path in Path(directory).glob(f"{pattern}/{sign}")
    }
    for place in sorted(places):
        try:
            record = read_record(place)
        except DamagedRecord:
            runs.append(
                SurveyedRun(place, None, f"{place / RECORD} is damaged, not as it was written")
            )
            continue
        except UserError as error:
            runs.append(SurveyedRun(place, None, str(error)))
            continue
        fault = (
            f"{place} has no {RECORD}"
            if record is None
            else run_fault(place, record, read=record.stage in read)
        )
        runs.append(SurveyedRun(place, record, fault))
    return runs


def finished_runs(directory: Path | str, pattern: str = "**") -> Iterator[tuple[Path, RunRecord]]:
    """The directories and records of `runs_below` that are finished and whole; the others are named
    in the log."""
    for run in runs_below(directory, pattern):
        if run.fault is not None:
            warn_once(run.left_out)
        elif run.record is not None:
            yield run.directory, run.record
