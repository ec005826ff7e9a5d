"""The figures of a study, and the table that lays them beside a paper."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from diffusae.evaluation.result import load_results
from diffusae.report.comparison import Compared, Ours, Reference
from diffusae.runs.survey import runs_below

log = logging.getLogger(__name__)


def figures_below(directory: Path) -> Iterator[Ours]:
    """The rows of every results.json below a study's directory, with the k of the SAE from the
    run.json beside it.
    """
    runs = {run.directory: run for run in runs_below(directory / "evaluation", read=("evaluate",))}
    for run in runs.values():
        if run.fault is not None:
            log.warning("%s", run.left_out)
    for path in sorted((directory / "evaluation").rglob("results.json")):
        run = runs.get(path.parent)
        record = None if run is None else run.record
        if run is not None and run.fault is not None:
            continue
        sae = {} if record is None else record.config.get("sae", {})
        for result in load_results(path):
            if not {"block", "t", "conditioning"} <= result.cell.keys():
                continue  # a figure over several cells, such as a curve
            yield Ours(result, k=sae.get("k"), name=path.parent.name)


def show_comparison(name: str, reference: Reference, lines: list[Compared]) -> None:
    table = Table(
        title=f"{name} beside {reference.id} ({reference.model})", box=SIMPLE_HEAD, pad_edge=False
    )
    for column in ("metric", "cell", "k", "ours", "interval", "theirs", "difference"):
        table.add_column(column, no_wrap=True)
    for line in lines:
        t = "" if line.t is None else f"t{line.t:.2f}"
        table.add_row(
            line.metric,
            "-".join(part for part in (line.block, t, line.conditioning) if part),
            "" if line.k is None else str(line.k),
            "no data" if line.ours is None else f"{line.ours:.3f}",
            "" if line.ci95 is None else f"{line.ci95[0]:.3f} ... {line.ci95[1]:.3f}",
            f"{line.theirs:.3f}",
            "" if line.difference is None else f"{line.difference:+.3f}",
        )
    console = Console()
    if not console.is_terminal:  # a log takes whole lines
        console = Console(width=Console(width=100_000).measure(table).maximum)
    console.print(table)
