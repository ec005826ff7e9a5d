"""Concepts: list and search the labelled latents of all cells."""

from __future__ import annotations

import logging

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from diffusae.errors import UserError, unknown
from diffusae.exploring.cells import trained_cells
from diffusae.exploring.concept_table import ConceptTable
from diffusae.exploring.opened import concepts_of
from diffusae.study.study import Study

log = logging.getLogger(__name__)

FORMATS = ("table", "csv", "json")


def concepts(cfg: DictConfig) -> None:
    """Print one row a (cell, latent, label): counts, IoU, and how near the label is to the word.

    Raises:
        UserError: an unknown format, no labelled cell, a word without a vector.
    """
    study = Study(cfg)
    study.check()
    if cfg.format not in FORMATS:
        raise unknown("format", cfg.format, FORMATS)
    if cfg.rows is not None and (not isinstance(cfg.rows, int) or cfg.rows < 1):
        raise UserError(f"rows={cfg.rows} must be a whole number from 1, or null")
    made = concepts_of(study, trained_cells(study), cfg.word)
    if cfg.format == "csv":
        print(made.rows.to_csv(index=False), end="")
    elif cfg.format == "json":
        print(made.rows.to_json(orient="records", indent=2))
    else:
        _print_table(made, cfg.rows)


def _print_table(made: ConceptTable, most: int | None) -> None:
    if not made.exact:
        near = ", ".join(made.labels) or "(none)"
        print(f"{made.word!r} is no label of this study; the nearest labels are {near}")
    columns = [name for name in made.rows if name != "similarity" or made.word is not None]
    table = Table(*columns, box=None)
    for row in made.rows.head(most)[columns].itertuples(index=False):
        table.add_row(
            *(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row)
        )
    Console().print(table)
    if most is not None and (left := len(made.rows) - most) > 0:
        print(f"and {left} more rows: rows=null, format=csv or format=json shows them all")
