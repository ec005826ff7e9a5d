"""A disturbed study is finished by the same command, and its outputs are judged."""

from dataclasses import dataclass
from pathlib import Path

from faults.command import Ended, run
from faults.judge import Difference, Outcome, differences, judged
from faults.remedy import ROUNDS, carry_out, message_of
from faults.study import OUTPUTS, Step


@dataclass(frozen=True)
class Verdict:
    """The outcome of one disturbed study, and its evidence."""

    outcome: Outcome
    detail: str


def to_the_end(
    step: Step, directory: Path, reference: Path, *, unread: str | None = None
) -> Verdict:
    """Run the step's command, follow its messages, and compare with the undisturbed study.

    Args:
        directory: the study after the disturbance.
        reference: the undisturbed study after this step.
        unread: a damaged file that the step may leave damaged if its results are right.
    """
    done: list[str] = []
    for _ in range(ROUNDS):
        ended = run(step.command, directory)
        if fault := _fault(ended):
            return Verdict("unclear", "; ".join([*done, fault]))
        wrong = differences(reference / OUTPUTS, directory / OUTPUTS)
        wrong = [difference for difference in wrong if difference.path != unread or done]
        if ended.code == 0 and not wrong:
            return Verdict(judged([], remedied=bool(done)), "; ".join(done))
        said = message_of(ended.stderr) if ended.code else _warnings(ended)
        remedy = carry_out(said, directory, step)
        if remedy is None or (ended.code == 0 and not said):
            return _judge_the_rest(ended, wrong, done)
        done.append(f"{_first_line(said)} -> {remedy}")
    return Verdict("lost", "no end: " + "; ".join(done))


def _judge_the_rest(ended: Ended, wrong: list[Difference], done: list[str]) -> Verdict:
    if ended.code:
        fault = f"exit {ended.code} without a remedy: {message_of(ended.stderr)}"
        return Verdict("lost", "; ".join([*done, fault]))
    shown = ", ".join(map(str, wrong[:4]))
    more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
    return Verdict(judged(wrong, remedied=bool(done)), "; ".join([*done, shown + more]))


def _fault(ended: Ended) -> str | None:
    """A fault that must never occur, whatever was done to the study."""
    if "Traceback" in ended.stderr or "Logging error" in ended.stderr:
        return f"traceback: {ended.stderr.strip().splitlines()[-1][:300]}"
    if ended.code not in (0, 2):
        return f"exit code {ended.code}: {ended.stderr.strip()[-300:]}"
    return None


def _warnings(ended: Ended) -> str:
    """The warnings of a command that continued, as far as they name a command as remedy."""
    lines = ended.stdout.splitlines()
    return "\n".join(line for line in lines if "[WARNING]" in line and "`diffusae" in line)


def _first_line(text: str) -> str:
    return text.partition("\n")[0][:200]
