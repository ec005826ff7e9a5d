"""Compare: what is evaluated in an outputs folder beside a paper's own figures."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from diffusae.evaluation.result import load_results
from diffusae.files import atomic_path, atomic_write_json, remove_left_overs
from diffusae.report.comparison import (
    Compared,
    Ours,
    Reference,
    comparison_csv,
    comparison_markdown,
    load_reference,
)
from diffusae.report.comparison import (
    compare as lay_beside,
)
from diffusae.runs.disk import where_writable
from diffusae.runs.survey import runs_below
from diffusae.study.study import Study

log = logging.getLogger(__name__)


def compare(cfg: DictConfig) -> None:
    """Print the comparison and write it to `compare/<reference>.{json,csv,md}` in the study's directory.

    All `evaluation/**/results.json` below the directory are read, of whatever SAE; those of a run that is not finished
    are left out.
    """
    study = Study(cfg)
    reference = load_reference(cfg.reference)
    ours = list(figures_below(study.directory))
    if not ours:
        log.warning("%s holds no results yet: every row is without data", study.directory / "evaluation")
    lines = lay_beside(reference, ours)
    place = study.directory / "compare" / reference.id
    _show(study.name, reference, lines)
    with where_writable(place, otherwise="the comparison is shown and not kept"):
        remove_left_overs(place.parent)
        atomic_write_json(place.with_suffix(".json"), [asdict(line) for line in lines])
        for suffix, text in (
            (".csv", comparison_csv(lines)),
            (".md", comparison_markdown(reference, lines, experiment=study.name)),
        ):
            with atomic_path(place.with_suffix(suffix)) as temporary:
                temporary.write_text(text, encoding="utf-8")
        log.info("written to %s.json, .csv and .md", place)


def figures_below(directory: Path) -> Iterator[Ours]:
    """The rows of every results.json below a study's directory, with the k of the SAE from the run.json beside it."""
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
            yield Ours(
                metric=result.metric,
                cell=result.cell,
                value=result.value,
                ci95=result.estimate.ci95,
                n=result.estimate.n,
                unit=result.unit,
                k=sae.get("k"),
                name=path.parent.name,
            )


def _show(name: str, reference: Reference, lines: list[Compared]) -> None:
    table = Table(title=f"{name} beside {reference.id} ({reference.model})", box=SIMPLE_HEAD, pad_edge=False)
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
