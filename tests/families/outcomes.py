"""What the tests of this folder found, as a table of families and features."""

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from families.running import Case
from tiny_families import FAMILIES

FEATURES = ("hooks", "capture", "branches", "edit", "replay", "attention", "offload", "compile")
"""The columns, one for each test module of this folder."""


class Outcomes:
    """The tests that passed, failed or did not apply, by family and feature."""

    def __init__(self) -> None:
        self.families: dict[str, dict[str, Any]] = {}

    def note(self, case: Case, path: Path, report: pytest.TestReport) -> None:
        """Count a finished test. One that did not apply says why."""
        if report.when != "call" and report.passed:
            return
        feature = path.stem.removeprefix("test_")
        known = {"pipeline": type(case.pipe).__name__, "denoiser": type(case.denoiser).__name__}
        cell = self.families.setdefault(case.name, known).setdefault(feature, {})
        if report.skipped:
            assert isinstance(report.longrepr, tuple)
            reasons = cell.setdefault("none", [])
            if (reason := report.longrepr[2].removeprefix("Skipped: ")) not in reasons:
                reasons.append(reason)
        else:
            outcome = "passed" if report.passed else "failed"
            cell[outcome] = cell.get(outcome, 0) + 1

    def write(self, path: Path) -> None:
        """Write the table if every family has every feature; a part of it would be believed to be
        all."""
        for name in FAMILIES:
            missing = set(FEATURES) - self.families.get(name, {}).keys()
            if missing:
                raise pytest.UsageError(f"{path} is not written: {name} has no {sorted(missing)}")
        versions = {"diffusers": diffusers.__version__, "torch": torch.__version__}
        families = dict(sorted(self.families.items()))
        table = {"versions": versions, "features": FEATURES, "families": families}
        path.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
