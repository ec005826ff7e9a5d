"""The committed table of families and features is of all families and all tests of today."""

import json
from pathlib import Path

from families.outcomes import FEATURES
from tiny_families import FAMILIES

TABLE = Path(__file__).parents[2] / "docs/reference/models-tested.json"
COMMITTED = json.loads(TABLE.read_text(encoding="utf-8"))["families"]


def test_the_table_has_every_family_and_no_other() -> None:
    assert list(COMMITTED) == sorted(FAMILIES), "run: make families"


def test_a_feature_is_a_module_of_tests() -> None:
    modules = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert set(FEATURES) == modules - {"table"}
    for name, row in COMMITTED.items():
        assert row.keys() - {"pipeline", "denoiser"} == set(FEATURES), name


def test_no_test_of_the_table_failed() -> None:
    failed = [
        (name, feature)
        for name, row in COMMITTED.items()
        for feature in FEATURES
        if "failed" in row[feature]
    ]
    assert not failed
