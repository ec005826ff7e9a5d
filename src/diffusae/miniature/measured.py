"""The measurement of the miniature at its gate."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from diffusae.backbone.load import load_pipeline
from diffusae.capture.conditions import conditions
from diffusae.capture.generate import generate
from diffusae.errors import UserError
from diffusae.files import atomic_path, atomic_write_json
from diffusae.interventions.exchange import Exchange, exchanged_conditions
from diffusae.jobs.progress import progress_bar
from diffusae.miniature.annotator import MiniatureAnnotator
from diffusae.miniature.autoencoder import reconstruct
from diffusae.miniature.folder import size_in_bytes
from diffusae.miniature.gate import (
    check_annotator,
    check_autoencoder,
    check_generation,
    check_layouts,
)
from diffusae.miniature.gate_decisions import check_decisions
from diffusae.miniature.gate_figures import GateFigure
from diffusae.miniature.settings import GateSettings
from diffusae.miniature.world import SIZE
from diffusae.miniature.worlds import World

log = logging.getLogger(__name__)

SHIPPED_BYTES = 24 * 10**6
"""The largest size of the shipped weights."""
SHEET = (5, 12)
"""Rows and columns of the contact sheet."""


def pass_gate(folder: Path, directory: Path, world: World, settings: GateSettings) -> None:
    """Measure a pipeline folder on a world, print every figure and write it into `directory`.

    Raises:
        UserError: a bound is not kept.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipe: Any = load_pipeline(folder, dtype=torch.float32, device=device)
    annotator = MiniatureAnnotator(folder / "annotator")

    pictures = GatePictures(pipe, settings)

    def back(drawn: np.ndarray) -> np.ndarray:
        parts = [reconstruct(pipe.vae, drawn[i : i + 50]) for i in range(0, len(drawn), 50)]
        return np.concatenate(parts)

    generated, sheet = check_generation(world, pictures, annotator.annotate, n=settings.pictures)
    megabytes, most = size_in_bytes(folder) / 1e6, SHIPPED_BYTES / 1e6
    figures = [
        GateFigure("weights (MB)", megabytes, None, 1, most, at_least=False),
        *check_autoencoder(world, back),
        *check_annotator(world, annotator.annotate, back),
        *generated,
        *check_layouts(world, pictures, annotator.annotate),
        *check_decisions(
            world, pictures, pictures.exchanged, annotator.annotate, n=settings.exchanges
        ),
    ]
    rows, columns = SHEET
    with atomic_path(directory / "contact_sheet.png") as temporary:
        strips = [
            np.concatenate(list(sheet[row * columns : (row + 1) * columns]), axis=1)
            for row in range(rows)
        ]
        Image.fromarray(np.concatenate(strips)).save(temporary, format="PNG")
    described = [asdict(figure) | {"passed": figure.passed} for figure in figures]
    atomic_write_json(directory / "gate.json", described)
    _print(figures)
    if failed := ", ".join(figure.name for figure in figures if not figure.passed):
        raise UserError(
            f"the gate is not passed: {failed}; train longer, the training goes on where it ended"
        )


class GatePictures:
    """Pictures of a pipeline, some at once."""

    def __init__(self, pipe: Any, settings: GateSettings) -> None:
        self.pipe, self.settings = pipe, settings
        length = pipe.tokenizer.model_max_length  # PixArt's pipeline has a larger number of its own
        self.guided: dict[str, Any] = {"guidance": settings.guidance, "text_tokens": length}

    def __call__(self, captions: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """Pictures of captions."""
        return self._made(captions, seeds, None)

    def exchanged(
        self, captions: Sequence[str], seeds: Sequence[int], others: Sequence[str], t: float
    ) -> np.ndarray:
        """Pictures of captions for which others stand from t on."""
        return self._made(captions, seeds, [Exchange(other, (t, 0.0)) for other in others])

    def _made(
        self, captions: Sequence[str], seeds: Sequence[int], exchanges: Sequence[Exchange] | None
    ) -> np.ndarray:
        parts: list[np.ndarray] = []
        with progress_bar("pictures", total=len(captions)) as (advance, _):
            for start in range(0, len(captions), self.settings.batch_size):
                some = slice(start, start + self.settings.batch_size)
                with nullcontext() if exchanges is None else self._exchanging(exchanges[some]):
                    made = generate(
                        self.pipe,
                        captions[some],
                        seeds[some],
                        steps=self.settings.steps,
                        **self.guided,
                    )
                assert made.images is not None
                parts.append(made.images)
                advance(len(made.images))
        return np.concatenate(parts)

    def _exchanging(self, exchanges: Sequence[Exchange]) -> AbstractContextManager[None]:
        texts = [one.caption for one in exchanges]
        other = conditions(self.pipe, texts, "cond", height=SIZE, width=SIZE, **self.guided)
        return exchanged_conditions(self.pipe, exchanges, other)


def _print(figures: Sequence[GateFigure]) -> None:
    table = Table(title="The gate")
    for column in ("figure", "value", "95 % interval", "n", "bound", ""):
        table.add_column(column)
    for f in figures:
        value = "no data" if f.value is None else f"{f.value:.3f}"
        interval = "" if f.ci95 is None else f"{f.ci95[0]:.3f} - {f.ci95[1]:.3f}"
        bound = "" if f.bound is None else f"{'>=' if f.at_least else '<='} {f.bound:.2f}"
        mark = "" if f.bound is None else ("passed" if f.passed else "FAILED")
        table.add_row(f.name, value, interval, str(f.n), bound, mark)
    Console().print(table)
