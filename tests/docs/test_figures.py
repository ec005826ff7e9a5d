"""The tables of measured figures are those of docs/data/."""

from __future__ import annotations

import json
import re

from .pages import DOCS  # which makes docs/_site importable

# isort: split
from figures import PAGE, table_of, with_tables

TEXT = PAGE.read_text(encoding="utf-8")
FILES = sorted((DOCS / "data").glob("*.json"))


def test_the_page_has_the_tables_of_its_data() -> None:
    assert with_tables(TEXT) == TEXT, "run: python docs/_site/figures.py"
    shown = re.findall(r"<!-- data/([\w.-]+) -->", TEXT)
    assert shown and set(shown) <= {path.name for path in FILES}


def test_every_file_names_its_machine_and_what_it_is_a_time_of() -> None:
    for path in FILES:
        data = json.loads(path.read_text(encoding="utf-8"))
        assert data["measured"]["machine"], path
        assert all(row.get("trainer") or row.get("what") for row in data["rows"]), path


def test_a_table_has_the_columns_of_any_row_and_empty_cells() -> None:
    rows = [
        {"trainer": "ours", "ms": 1.2345, "vectors_per_second": 3_250_000},
        {"trainer": "a library", "ms": 41.0, "times_ours": 33.2, "loss_excess": -0.0004},
    ]
    assert table_of(rows) == (
        "| trainer   | ms   | vectors/s | time / ours | beside float32 |\n"
        "| --------- | ---- | --------- | ----------- | -------------- |\n"
        "| ours      | 1.23 | 3,250,000 |             |                |\n"
        "| a library | 41   |           | 33.20       | -0.040%        |\n"
    )


def test_tables_are_made_anew_and_the_text_around_them_stays() -> None:
    name = FILES[0].name
    text = f"Before.\n\n<!-- data/{name} -->\n\n| old | table |\n| - | - |\n\nAfter.\n"
    made = with_tables(text)
    assert made.startswith(f"Before.\n\n<!-- data/{name} -->\n\n| ") and made.endswith(
        "|\n\nAfter.\n"
    )
    assert "old" not in made and with_tables(made) == made
