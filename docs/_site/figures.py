"""Measured figures: the JSON files of docs/data/, and the tables that are made of them.

`python docs/_site/figures.py` writes the tables of the page anew. A table stands between
`<!-- data/NAME.json -->` and the next text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1]
PAGE = DOCS / "reference/performance.md"


def _significant(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


COLUMNS: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "size": ("size", "{}".format),
    "trainer": ("trainer", "{}".format),
    "what": ("what", "{}".format),
    "ms": ("ms", _significant),
    "vectors_per_second": ("vectors/s", "{:,.0f}".format),
    "pictures_per_second": ("pictures/s", "{:.2f}".format),
    "gigabytes_per_second": ("GB/s", "{:.1f}".format),
    "times_float32": ("time / ours in float32", "{:.1f}".format),
    "times_bfloat16": ("/ in bfloat16", "{:.1f}".format),
    "times_int8": ("/ in int8", "{:.1f}".format),
    "times_640": ("/ by default, k_aux 640", "{:.1f}".format),
    "times_1024": ("/ in int8, k_aux 1024", "{:.1f}".format),
    "times_ours": ("time / ours", "{:.2f}".format),
    "of_limit": ("of the limit", "{:.0%}".format),
    "gigabytes": ("GB", "{:.2f}".format),
    "share": ("share", "{:.0%}".format),
    "loss": ("loss", "{:.5f}".format),
    "loss_excess": ("beside float32", "{:+.3%}".format),
}
"""Field of a row, the heading of its column, and how its value is written."""
_TABLE = re.compile(r"(<!-- (data/[\w.-]+\.json) -->\n\n)(?:\|.*\n)*\n*")

Row = Mapping[str, Any]


def table_of(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table of the columns that any row has; a cell without a value is
    empty.
    """
    known = [name for name in COLUMNS if any(row.get(name) is not None for row in rows)]
    lines = [[COLUMNS[name][0] for name in known]]
    lines += [
        ["" if row.get(name) is None else COLUMNS[name][1](row[name]) for name in known]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    padded = (map(str.ljust, line, widths) for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in padded)


def with_tables(text: str) -> str:
    """A page with the tables of its data files."""

    def made(match: re.Match[str]) -> str:
        data = json.loads((DOCS / match[2]).read_text(encoding="utf-8"))
        return f"{match[1]}{table_of(data['rows'])}\n"

    return _TABLE.sub(made, text)


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
