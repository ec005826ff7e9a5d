"""The campaign's results as a table: Markdown to read, JSON for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffusae.files import atomic_path
from faults.trials import Result

COLUMNS = {
    "identical": "resumed byte-identical",
    "remedied": "named error whose remedy works",
    "lost": "lost",
    "wrong": "silently wrong",
    "unclear": "traceback or wrong exit code",
}
BEGIN, END = "<!-- the campaign writes from here -->", "<!-- to here -->"


def failures(results: Sequence[Result]) -> list[Result]:
    """The trials with an outcome that must not occur."""
    return [result for result in results if result.outcome in ("lost", "wrong", "unclear")]


def counted(results: Sequence[Result], by: str) -> dict[str, dict[str, int]]:
    """The outcomes by `row` or `fault`: the count of every outcome and of all trials."""
    table: dict[str, dict[str, int]] = {}
    columns = ("tried", *COLUMNS, "not tried")
    for result in results:
        line = table.setdefault(getattr(result, by), dict.fromkeys(columns, 0))
        line["tried"] += result.tried
        line[result.outcome] += 1
    return table


def as_json(results: Sequence[Result], facts: Mapping[str, Any]) -> dict[str, Any]:
    """All trials with their outcomes, the counts by row and fault, and the facts."""
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.group, result.row, result.fault), []).append(result)
    return {
        "facts": dict(facts),
        "total": counted(results, "group"),
        "rows": [
            {"group": group, "row": row, "fault": fault, **counted(trials, "row")[row]}
            for (group, row, fault), trials in sorted(groups.items())
        ],
        "trials": [asdict(result) for result in results],
    }


def as_markdown(results: Sequence[Result], facts: Mapping[str, Any]) -> str:
    """The facts, the totals, and a table of every group by row."""
    parts = ["; ".join(f"{name} {value}" for name, value in facts.items()) + "."]
    parts.append(_table("what was done", counted(results, "group")))
    for group in dict.fromkeys(result.group for result in results):
        of_group = [result for result in results if result.group == group]
        parts.append(f"### {group.capitalize()}")
        faults = counted(of_group, "fault")
        if len(faults) > 1:
            parts.append(_table("how", _by_first_word(faults)))
        parts.append(_table("stage" if group != "damaged" else "file", counted(of_group, "row")))
    return "\n\n".join(parts)


def _by_first_word(faults: Mapping[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """`truncated, then report` and the like as one line."""
    table: dict[str, dict[str, int]] = {}
    for fault, line in faults.items():
        name, _, reader = fault.partition(", then ")
        name = f"{name}, then a stage that reads it" if reader else name
        sums = table.setdefault(name, dict.fromkeys(line, 0))
        for column, count in line.items():
            sums[column] += count
    return table


def _table(what: str, lines: Mapping[str, Mapping[str, int]]) -> str:
    shown = {"tried": "tried", **COLUMNS}
    head = f"| {what} | {' | '.join(shown.values())} |\n|---|{'--:|' * len(shown)}"
    body = [
        f"| {name} | {' | '.join(str(line[column]) for column in shown)} |"
        for name, line in lines.items()
    ]
    return "\n".join([head, *body])


def write_into(page: Path, text: str) -> None:
    """Replace the text between the page's marks, an earlier campaign's."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{page} lacks the marks {BEGIN} and {END}")
    with atomic_path(page) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
