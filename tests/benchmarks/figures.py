"""Where a benchmark keeps what it measured: `make bench` and `make bench-gpu` set `BENCH_DATA`."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from diffusae.files import atomic_write_json

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs" / "_site"))
from figures import Row, table_of  # noqa: E402


def processor() -> str:
    """The CPU's name."""
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def machine(device: str) -> str:
    """The name of the GPU, or of the CPU."""
    return torch.cuda.get_device_name() if device == "cuda" else processor()


def measured(device: str, **about: Any) -> dict[str, Any]:
    """On what, when and of which state of the code something is measured."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return {
        "machine": machine(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if device == "cuda" else None,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip() or None,
        **about,
    }


def show_and_keep(name: str, rows: Sequence[Row], *, device: str, **about: Any) -> None:
    """Print the rows as a table, and write them to `BENCH_DATA` if that is set.

    The file is `NAME-MACHINE.json`: another machine adds a file and replaces none.
    """
    print(f"\n{table_of(rows)}", end="")
    if directory := os.environ.get("BENCH_DATA"):
        slug = re.sub(r"[^a-z0-9]+", "-", machine(device).lower()).strip("-")
        path = Path(directory) / f"{name}-{slug}.json"
        atomic_write_json(path, {"measured": measured(device, **about), "rows": list(rows)})
        print(f"kept in {path}")
