"""What runs lie below a directory, and which of them count as finished: one answer for all that is made of many runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusae.errors import UserError
from diffusae.runs.record import RECORD, RunRecord, read_record, run_fault, warn_once


@dataclass(frozen=True)
class Kept:
    """A run that lies somewhere below a directory; `fault` says why it does not count as finished."""

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


def runs_below(directory: Path | str, pattern: str = "**", *, read: Sequence[str] = ()) -> list[Kept]:
    """Every run whose directory, below `directory`, has a name of the pattern, by path.

    Outputs of the stages that `read` names are read, those of the others looked at as in `run_fault`.
    """
    found = []
    for path in sorted(Path(directory).glob(f"{pattern}/{RECORD}")):
        try:
            record = read_record(path.parent)
        except UserError as error:
            found.append(Kept(path.parent, None, str(error)))
            continue
        if record is not None:
            fault = run_fault(path.parent, record, read=record.stage in read)
            found.append(Kept(path.parent, record, fault))
    return found


def finished_runs(directory: Path | str, pattern: str = "**") -> Iterator[tuple[Path, RunRecord]]:
    """The directories and records of `runs_below` that are finished and whole; the others are named in the log."""
    for run in runs_below(directory, pattern):
        if run.fault is not None:
            warn_once(f"left out: {run.fault}")
        elif run.record is not None:
            yield run.directory, run.record
