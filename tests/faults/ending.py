"""Bringing a disturbed study to its end by the same command, and judging what is there then."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from faults.command import Ended, run
from faults.judge import Difference, Outcome, differences, judged
from faults.remedy import ROUNDS, carry_out, message_of
from faults.study import OUTPUTS, Step


@dataclass(frozen=True)
class Verdict:
    """What became of one disturbed study, and what shows it."""

    outcome: Outcome
    detail: str


def to_the_end(
    step: Step, directory: Path, reference: Path, *, unread: str | None = None
) -> Verdict:
    """Run the step's command, do what its messages say, and compare with the undisturbed study.

    Args:
        directory: of the study, as the disturbance has left it.
        reference: of the undisturbed study after this step.
        unread: a damaged file that the step need not mend where its results are right all the same.
    """
    done: list[str] = []
    for _ in range(ROUNDS):
        ended = run(step.command, directory)
        if fault := _fault(ended):
            return Verdict("unclear", "; ".join([*done, fault]))
        found = differences(reference / OUTPUTS, directory / OUTPUTS)
        found = [difference for difference in found if difference.path != unread or done]
        if ended.code == 0 and not found:
            return Verdict(judged([], remedied=bool(done)), "; ".join(done))
        said = message_of(ended.stderr) if ended.code else _warnings(ended)
        remedy = carry_out(said, directory, step)
        if remedy is None or (ended.code == 0 and not said):
            return _judge_the_rest(ended, found, done)
        done.append(f"{_first_line(said)} -> {remedy}")
    return Verdict("lost", "no end: " + "; ".join(done))


def _judge_the_rest(ended: Ended, found: list[Difference], done: list[str]) -> Verdict:
    if ended.code:
        return Verdict(
            "lost",
            "; ".join([*done, f"exit {ended.code} without a remedy: {message_of(ended.stderr)}"]),
        )
    shown = ", ".join(map(str, found[:4])) + (
        f" and {len(found) - 4} more" if len(found) > 4 else ""
    )
    return Verdict(judged(found, remedied=bool(done)), "; ".join([*done, shown]))


def _fault(ended: Ended) -> str | None:
    """What must never be seen, whatever was done to the study."""
    if "Traceback" in ended.stderr or "Logging error" in ended.stderr:
        return f"traceback: {ended.stderr.strip().splitlines()[-1][:300]}"
    if ended.code not in (0, 2):
        return f"exit code {ended.code}: {ended.stderr.strip()[-300:]}"
    return None


def _warnings(ended: Ended) -> str:
    """The warnings, with a command as their remedy, of a command that went on in spite of them."""
    return "\n".join(
        line for line in ended.stdout.splitlines() if "[WARNING]" in line and "`diffusae" in line
    )


def _first_line(text: str) -> str:
    return text.partition("\n")[0][:200]
