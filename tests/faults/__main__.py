"""The command of the campaign: `python -m faults`, from `make test-faults`."""

from __future__ import annotations

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
    """Run the campaign; 1 where something was lost, silently wrong, or ended in a traceback."""
    asked, begun = _asked(), time.monotonic()
    seed = SystemRandom().randrange(10**6) if asked.seed is None else asked.seed
    print(f"seed {seed}", flush=True)
    # No TemporaryDirectory: it is removed whenever a process ends that was forked from this one.
    root = Path(tempfile.mkdtemp(prefix="faults-", dir=asked.directory)).resolve()
    try:
        results = _tried(root, seed, asked)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    results += [] if asked.no_fuzz else [_fuzz(seed)]
    _tell(results, _facts(seed, asked, time.monotonic() - begun), asked)
    return 1 if failures(results) else 0


def _tried(root: Path, seed: int, asked: argparse.Namespace) -> list[Result]:
    snapshots.import_all()
    study = snapshots.build(root / "snapshots", [STEPS[name] for name in asked.steps])
    trials = _trials(study, seed, asked)
    wanted = [each for each in trials if asked.only in f"{each.group} {each.row} {each.fault}"]
    (root / "trials").mkdir()
    return carry_out(wanted, root / "trials", jobs=asked.jobs)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument(
        "--seed", type=int, help="of all that is drawn; drawn anew by default, and printed"
    )
    parser.add_argument("--trials", type=int, default=60, help="kills")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="trials at the same time"
    )
    parser.add_argument(
        "--steps", nargs="+", choices=list(STEPS), default=list(STEPS), metavar="STEP",
        help=f"the first of these, in their order: {', '.join(STEPS)}",
    )  # fmt: skip
    parser.add_argument(
        "--only", default="", help="trials with this text in their name, such as 'damaged sae/'"
    )
    parser.add_argument(
        "--no-fuzz", action="store_true", help="leave the 5,000 inputs of every reader out"
    )
    parser.add_argument("--directory", help="where the studies lie while they are tried")
    parser.add_argument(
        "--write-page", action="store_true", help="put the table into docs/reliability.md"
    )
    parser.add_argument("--json", type=Path, default=REPOSITORY / "outputs" / "faults.json")
    return parser.parse_args()


def _trials(study: snapshots.Snapshots, seed: int, asked: argparse.Namespace) -> list[Trial]:
    trials = kill_trials(study, Random(f"{seed} kills"), asked.trials)
    trials += damage_trials(study, Random(f"{seed} damage"))
    if full_disk.can_mount():
        return trials + full_disk.disk_trials(study, Random(f"{seed} disk"), each=2)
    return [
        *trials,
        Trial(
            "full disk", "every stage", "full disk: this user cannot mount one", lambda room: None
        ),
    ]


def _fuzz(seed: int) -> Result:
    """The fuzzed readers, with 5,000 inputs each."""
    command = [sys.executable, "-m", "pytest", "tests/fuzz", "-q", "--hypothesis-profile=faults",
               f"--hypothesis-seed={seed}", "--timeout=3600"]  # fmt: skip
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    told = ended.stdout.strip().splitlines()[-1:]
    print(*(ended.stdout.splitlines()[-30:] if ended.returncode else told), sep="\n", flush=True)
    outcome = "unclear" if ended.returncode else "identical"
    return Result("fuzzed", "readers", "5,000 inputs each", outcome, " ".join(told))


def _facts(seed: int, asked: argparse.Namespace, seconds: float) -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "-C", str(REPOSITORY), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
    ).stdout.strip()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": (
            f"`make test-faults SEED={seed} TRIALS={asked.trials}`"
            + (", without the fuzzed readers" if asked.no_fuzz else "")
        ),
        "commit": commit,
        "machine": f"{_processor()}, {os.cpu_count()} cores, {asked.jobs} trials at a time",
        "minutes": round(seconds / 60),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(
            line.partition(":")[2].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.machine()


def _tell(results: list[Result], facts: dict[str, Any], asked: argparse.Namespace) -> None:
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
