"""A paper's own figures beside ours: row by row ours with its interval, theirs, the difference, or
"no data".
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from diffusae.errors import UserError, unknown
from diffusae.evaluation.result import NO_DATA, Estimate, Result
from diffusae.parsing import json_value, of_type
from diffusae.report.markdown import as_text

PAPERS = Path(__file__).parent / "paper"
_COORDINATES = ("block", "t", "conditioning")
_ROW = {"table", "metric", "cell", "k", "value", "spread", "higher_is_better", "unit", "ours"}


@dataclass(frozen=True, kw_only=True)
class Reported:
    """One figure of a paper.

    Attributes:
        table: where it stands. metric: what it is, in our words.
        cell: the coordinates that the paper gives it: some of block, t, conditioning.
        k: active latents of the SAE; None where the paper does not say.
        value, spread: as printed, shares as shares; `spread` stands behind a +-, and is no interval
            of ours.
        ours: our metrics that answer to it, the most exact first.
        note: what to know of it.
    """

    table: str
    metric: str
    cell: Mapping[str, Any]
    k: int | None
    value: float
    spread: float | None
    higher_is_better: bool
    unit: str
    ours: Sequence[str]
    note: str = ""


@dataclass(frozen=True)
class Reference:
    """A paper's figures. `model` is the one that they are of, as a model's config names it."""

    id: str
    title: str
    source: str
    model: str
    notes: Sequence[str]
    rows: Sequence[Reported]


@dataclass(frozen=True)
class Ours:
    """One of our figures, with the k of the SAE that it is of and the name of its directory."""

    result: Result
    k: int | None = None
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One line of the comparison. `ours` None: no data, and then there is no difference either.

    `difference` is ours less theirs, with our interval moved by theirs; `within` whether theirs
    lies in our interval.
    """

    table: str
    metric: str
    block: str
    t: float | None
    conditioning: str
    k: int | None
    ours: float | None
    ci95: tuple[float, float] | None
    n: int
    clusters: int | None
    theirs: float
    spread: float | None
    difference: float | None
    difference_ci95: tuple[float, float] | None
    within: bool | None
    higher_is_better: bool
    unit: str
    name: str = ""
    note: str = ""
    model: str = field(default="")


def known_references() -> list[str]:
    """The papers whose figures ship with the package."""
    return sorted(path.stem for path in PAPERS.glob("*.json"))


def load_reference(name: str | Path) -> Reference:
    """Read a shipped paper by its id, or a file of the same layout by its path.

    Raises:
        UserError: no such paper or file, or a row that lacks a field; the row is named.
    """
    path = PAPERS / f"{name}.json"
    if not path.exists():
        path = Path(name)
        if path.suffix != ".json" or not path.is_file():
            raise unknown("reference", name, known_references())
    try:
        content = json_value(path.read_bytes())
        rows = content["rows"]
        top = {name: content[name] for name in ("id", "title", "source", "model", "notes")}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is no reference ({error!r}); it needs id, title, source, model, notes and rows"
        ) from error
    for number, row in enumerate(of_type(rows, list, f"{path}: rows"), start=1):
        row = of_type(row, dict, f"{path}: row {number}")
        cell = of_type(row.get("cell", {}), dict, f"{path}: cell of row {number}")
        wrong = (_ROW - set(row)) | (set(row) - _ROW - {"note"}) | (set(cell) - {*_COORDINATES})
        if wrong:
            raise UserError(
                f"{path}, row {number}: missing or unknown: {', '.join(sorted(wrong))}; a row has"
                f" {', '.join(sorted(_ROW))}"
            )
    return Reference(**top, rows=[Reported(**row) for row in rows])


def compare(reference: Reference, ours: Iterable[Ours]) -> list[Compared]:
    """Every row of the reference with each of our figures that answers to it, or once with "no
    data".

    A figure answers where its metric is one that the row names, its cell has the coordinates that
    the row gives (t to two decimals), and its k is the row's where both have one. Of several
    metrics the first one that has figures counts.
    """
    figures = list(ours)
    return [line for row in reference.rows for line in _lines(row, figures)]


def _lines(row: Reported, figures: Sequence[Ours]) -> Iterator[Compared]:
    for metric in row.ours:
        ours = [own for own in figures if own.result.metric == metric and _answers(row, own)]
        if any(own.result.value is not None for own in ours):
            yield from (_line(row, own) for own in ours)
            return
    yield _line(row, None)


def _answers(row: Reported, ours: Ours) -> bool:
    if row.k is not None and ours.k is not None and row.k != ours.k:
        return False
    return all(_same(ours.result.cell.get(name), wanted) for name, wanted in row.cell.items())


def _same(own: Any, wanted: Any) -> bool:
    if isinstance(wanted, float) and isinstance(own, int | float):
        return round(own, 2) == round(wanted, 2)
    return own == wanted


def _line(row: Reported, ours: Ours | None) -> Compared:
    cell = row.cell if ours is None else ours.result.cell
    own = NO_DATA if ours is None else ours.result.estimate
    value, ci95 = own.value, own.ci95
    return Compared(
        table=row.table,
        metric=row.metric,
        block=cell.get("block", ""),
        t=cell.get("t"),
        conditioning=cell.get("conditioning", ""),
        k=row.k if ours is None or ours.k is None else ours.k,
        ours=value,
        ci95=ci95,
        n=own.n,
        clusters=own.clusters,
        theirs=row.value,
        spread=row.spread,
        difference=None if value is None else value - row.value,
        difference_ci95=None if ci95 is None else (ci95[0] - row.value, ci95[1] - row.value),
        within=None if ci95 is None else ci95[0] <= row.value <= ci95[1],
        higher_is_better=row.higher_is_better,
        unit=row.unit,
        name="" if ours is None else ours.name,
        note=row.note,
        model="" if ours is None else str(cell.get("model", "")),
    )


def comparison_csv(lines: Sequence[Compared]) -> str:
    """The lines as CSV with a header, intervals as two columns."""
    out = io.StringIO()
    rows = [_flat(line) for line in lines]
    if rows:
        writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return out.getvalue()


def _flat(line: Compared) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in asdict(line).items():
        if name.endswith("ci95"):
            low, high = value or (None, None)
            flat |= {f"{name}_low": low, f"{name}_high": high}
        else:
            flat[name] = value
    return flat


def comparison_markdown(reference: Reference, lines: Sequence[Compared], *, experiment: str) -> str:
    """The lines as a Markdown page, a table for each of the paper's."""
    with_data = sum(line.ours is not None for line in lines)
    parts = [
        f"# {as_text(experiment)} beside {as_text(reference.title)}",
        (
            f"{reference.source}, figures of `{reference.model}`. {with_data} of {len(lines)} rows"
            " have data of ours."
        ),
    ]
    others = sorted({line.model for line in lines if line.model and line.model != reference.model})
    if others:
        parts.append(
            f"**Ours are of another model ({', '.join(others)}): differences are no test of the"
            " paper.**"
        )
    for table, rows in groupby(lines, key=lambda line: line.table):
        parts.append(f"## {table}\n\n" + _markdown_table(list(rows)))
    parts.append("## Notes\n\n" + "\n".join(f"- {note}" for note in reference.notes))
    return "\n\n".join(parts) + "\n"


def _markdown_table(lines: Sequence[Compared]) -> str:
    head = (
        "metric",
        "cell",
        "k",
        "ours",
        "95 % interval",
        "n",
        "theirs",
        "difference",
        "theirs within",
    )
    rows = [head, ("---",) * len(head), *(_cells(line) for line in lines)]
    return "\n".join(
        "| " + " | ".join(as_text(text) if text != "---" else text for text in row) + " |"
        for row in rows
    )


def _cells(line: Compared) -> tuple[str, ...]:
    t = "" if line.t is None else f"t={line.t:.2f}"
    better = "higher" if line.higher_is_better else "lower"
    theirs = _number(line.theirs) + ("" if line.spread is None else f" ± {_number(line.spread)}")
    return (
        f"{line.metric} ({line.unit}, {better} is better){f'; {line.note}' if line.note else ''}",
        " ".join(part for part in (line.block, t, line.conditioning) if part),
        "" if line.k is None else str(line.k),
        "no data" if line.ours is None else _number(line.ours),
        "" if line.ci95 is None else f"{_number(line.ci95[0])} ... {_number(line.ci95[1])}",
        "" if line.ours is None else Estimate(line.ours, None, line.n, line.clusters).counted,
        theirs,
        "" if line.difference is None else f"{line.difference:+.3f}",
        {None: "", True: "yes", False: "no"}[line.within],
    )


def _number(value: float) -> str:
    return f"{value:.3f}"
