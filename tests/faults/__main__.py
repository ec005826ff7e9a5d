"""The command of the campaign: `python -m faults`, from `make test-faults`."""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from diffusae.files import atomic_write_json
from faults import full_disk, snapshots
from faults.damage import damage_trials
from faults.kills import kill_trials
from faults.study import STEPS
from faults.table import as_json, as_markdown, failures, write_into
from faults.trials import Result, Trial, carry_out

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "reliability.md"


def main() -> int:
    """Run the campaign; 1 for any loss, any silently wrong result or any traceback."""
    asked, begun = _asked(), time.monotonic()
    seed = SystemRandom().randrange(10**6) if asked.seed is None else asked.seed
    print(f"seed {seed}", flush=True)
    # No TemporaryDirectory: it would be removed whenever a process forked from this one ends.
    root = Path(tempfile.mkdtemp(prefix="faults-", dir=asked.directory)).resolve()
    try:
        results = _tried(root, seed, asked)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    results += [] if asked.no_fuzz else [_fuzz(seed)]
    _report(results, _facts(seed, asked, time.monotonic() - begun), asked)
    return 1 if failures(results) else 0


def _tried(root: Path, seed: int, asked: argparse.Namespace) -> list[Result]:
    snapshots.import_all()
    study = snapshots.build(root / "snapshots", [STEPS[name] for name in asked.steps])
    trials = _trials(study, seed, asked)
    wanted = [trial for trial in trials if asked.only in f"{trial.group} {trial.row} {trial.fault}"]
    (root / "trials").mkdir()
    return carry_out(wanted, root / "trials", jobs=asked.jobs)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    add = parser.add_argument
    add("--seed", type=int, help="of all random choices; random by default, and printed")
    add("--trials", type=int, default=60, help="kills")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="trials at the same time")
    add(
        "--steps", nargs="+", choices=list(STEPS), default=list(STEPS), metavar="STEP",
        help=f"the first of these, in their order: {', '.join(STEPS)}",
    )  # fmt: skip
    add("--only", default="", help="trials with this text in their name, such as 'damaged sae/'")
    add("--no-fuzz", action="store_true", help="without the 5,000 inputs of every reader")
    add("--directory", help="where the studies are while they are tried")
    add("--write-page", action="store_true", help="put the table into docs/reliability.md")
    add("--json", type=Path, default=REPOSITORY / "outputs" / "faults.json")
    return parser.parse_args()


def _trials(study: snapshots.Snapshots, seed: int, asked: argparse.Namespace) -> list[Trial]:
    trials = kill_trials(study, Random(f"{seed} kills"), asked.trials)
    trials += damage_trials(study, Random(f"{seed} damage"))
    if full_disk.can_mount():
        return trials + full_disk.disk_trials(study, Random(f"{seed} disk"), count=2)
    fault = "full disk: this user cannot mount one"
    return [*trials, Trial("full disk", "every stage", fault, lambda room: None)]


def _fuzz(seed: int) -> Result:
    """The fuzzed readers, with 5,000 inputs each."""
    command = [sys.executable, "-m", "pytest", "tests/fuzz", "-q", "--hypothesis-profile=faults",
               f"--hypothesis-seed={seed}", "--timeout=3600"]  # fmt: skip
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    last = ended.stdout.strip().splitlines()[-1:]
    print(*(ended.stdout.splitlines()[-30:] if ended.returncode else last), sep="\n", flush=True)
    outcome = "unclear" if ended.returncode else "identical"
    return Result("fuzzed", "readers", "5,000 inputs each", outcome, " ".join(last))


def _facts(seed: int, asked: argparse.Namespace, seconds: float) -> dict[str, Any]:
    git = ["git", "-C", str(REPOSITORY), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    command = f"`make test-faults SEED={seed} TRIALS={asked.trials}`"
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": command + (", without the fuzzed readers" if asked.no_fuzz else ""),
        "commit": commit,
        "machine": f"{_processor()}, {os.cpu_count()} cores, {asked.jobs} trials at a time",
        "minutes": round(seconds / 60),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        line = next(line for line in lines if line.startswith("model name"))
        return line.partition(":")[2].strip()
    except (OSError, StopIteration):
        return platform.machine()


def _report(results: list[Result], facts: dict[str, Any], asked: argparse.Namespace) -> None:
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_json(asked.json, as_json(results, facts))
    text = as_markdown(results, facts)
    print(f"\n{text}\n\nall trials: {asked.json}")
    if asked.write_page:
        write_into(PAGE, text)
    for failed in failures(results):
        print(f"{failed.outcome}: {failed.group}, {failed.row}, {failed.fault}: {failed.detail}")


if __name__ == "__main__":
    sys.exit(main())
