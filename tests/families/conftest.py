"""Every shared claim is tested on every family of `tiny_families`, and the outcomes are a table.

A column of the table is a module of this folder: `test_edit.py` is the column `edit`. `make
families` runs all and writes the table, which docs/reference/models.md shows.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from families.outcomes import Outcomes
from families.running import Case
from tiny_families import FAMILIES

OUTCOMES = pytest.StashKey[Outcomes]()


@pytest.fixture(scope="session", params=FAMILIES)
def case(request: pytest.FixtureRequest) -> Case:
    """A family's tiny pipeline. The tests of one family follow each other, so there is one at a
    time."""
    return Case(request.param)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: pytest.TestReport = yield  # type: ignore[misc]
    outcomes = item.session.stash.setdefault(OUTCOMES, Outcomes())
    case = getattr(item, "funcargs", {}).get("case")
    if isinstance(case, Case):
        outcomes.note(case, item.path, report)
    return report  # type: ignore[return-value]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if path := os.environ.get("FAMILIES_TABLE"):
        session.stash[OUTCOMES].write(Path(path))
