"""What a cell does at every position of one picture, and the composition that it predicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffusae.activations.codes import padded
from diffusae.concepts.embeddings import WordEmbedding, embed_labels
from diffusae.errors import UserError
from diffusae.evaluation.composition import Picture, Settings, build_split, predict_scores
from diffusae.evaluation.result import load_results
from diffusae.exploring.cells import OpenCell
from diffusae.exploring.concept_table import refuse_another_embedding
from diffusae.labelling.codes import PicturesOfStudy
from diffusae.labelling.label import word_embedding
from diffusae.metrics.composition import concept_space, nouns_in
from diffusae.parsing import typed
from diffusae.sae.sparsity import Codes
from diffusae.study.study import Study, build

STRONGEST = 20
"""Latents of a cell that are listed with a picture."""
MOST_NOUNS = 32
"""Nouns whose predicted composition is given at a time."""


@dataclass(frozen=True, eq=False)
class CellCodes:
    """The codes of one picture at one cell.

    Attributes:
        grid: (height, width) of the positions, which are row-major.
        values: in data units, falling at every position; 0 where nothing is active.
        indices: the latents.
    """

    grid: tuple[int, int]
    values: Float[np.ndarray, "positions k"]
    indices: Int[np.ndarray, "positions k"]

    @classmethod
    def of(cls, codes: Codes, grid: tuple[int, int]) -> Self:
        """Codes as an autoencoder gives them."""
        values, indices = codes.values.float().numpy(), codes.indices.numpy()
        order = np.argsort(-values, axis=1, kind="stable")
        return cls(
            grid,
            np.take_along_axis(values, order, axis=1),
            np.take_along_axis(indices, order, axis=1).astype(np.int32),
        )

    def to_json(self) -> dict[str, Any]:
        """{"grid": [h, w], "indices": [[...] of a position], "values": [[...]]}: what is active,
        the strongest first; values with four digits.
        """
        active = (self.values > 0).sum(axis=1)
        rounded = np.vectorize(lambda value: float(f"{value:.4g}"), otypes=[float])(self.values)
        return {
            "grid": list(self.grid),
            "indices": [row[:n].tolist() for row, n in zip(self.indices, active, strict=True)],
            "values": [row[:n].tolist() for row, n in zip(rounded, active, strict=True)],
        }

    def strongest(self, cell: OpenCell) -> list[tuple[int, float, str]]:
        """The latents with the largest values: latent, value, labels as text."""
        largest: dict[int, float] = {}
        for latent, value in zip(self.indices.flat, self.values.flat, strict=True):
            if value > largest.get(int(latent), 0.0):
                largest[int(latent)] = float(value)
        chosen = sorted(largest, key=lambda latent: (-largest[latent], latent))[:STRONGEST]
        return [
            (latent, float(f"{largest[latent]:.4g}"), cell.labels_of(latent)) for latent in chosen
        ]


class Looking:
    """What cells do in pictures that were collected, and where nouns will be in any picture.

    Args:
        settings: the study's configuration.
        cell: gives a cell by its name.
    """

    def __init__(self, settings: Study, cell: Callable[[str], OpenCell]) -> None:
        self._settings, self._cell = settings, cell

    @cached_property
    def pictures(self) -> PicturesOfStudy:
        """What the study's collection stores, picture by picture."""
        return PicturesOfStudy(self._settings)

    def codes(self, name: str, image_id: str) -> CellCodes | None:
        """The codes of a collected picture at a cell; None: there is no such picture.

        Raises:
            UserError: nothing is stored of the cell, or what is stored is damaged.
        """
        cell = self._cell(name)
        coded = self.pictures.codes(cell.settings, cell.sae, image_id)
        if coded is None:
            return None
        grid = self.pictures.grid(cell.settings)
        values, indices = map(torch.from_numpy, padded([coded.codes], grid[0] * grid[1]))
        return CellCodes.of(Codes(values[0], indices[0]), grid)

    def prompt(self, image_id: str) -> str | None:
        """The prompt of a collected picture; None: there is no such picture."""
        return self.pictures.prompt(image_id)

    @cached_property
    def _words(self) -> WordEmbedding:
        return word_embedding(self._settings)

    @cached_property
    def _vectors(self) -> tuple[list[str], Tensor]:
        """The annotator's nouns that have an embedding, and their vectors."""
        vocabulary = build(self._settings.cfg.annotator, "annotator").labels
        known, vectors = embed_labels(self._words, vocabulary)
        if not known:
            raise UserError(
                f"the embedding {self._words.name} has a vector for none of the annotator's nouns;"
                " choose another embedding=..."
            )
        return known, vectors

    def composition(self, name: str, codes: CellCodes, prompt: str) -> dict[str, Any]:
        """The score of every position for every noun.

        {"nouns": {noun: [[...]]}, "settings", "threshold", "note"}: nouns of the prompt first, then
        those with the highest scores, at most `MOST_NOUNS`. `threshold` is the score above which
        `evaluate` counts a position; None: the cell was not evaluated.

        Raises:
            UserError: the cell is not labelled, or with another embedding; or there is no word
                embedding.
        """
        cell, (known, vectors) = self._cell(name), self._vectors
        chosen, threshold = chosen_settings(cell)
        dictionary = cell.dictionary
        refuse_another_embedding(name, dictionary.facts["embedding"], self._words)
        # Every noun counts as an object: only scores are wanted, and masks are not looked at.
        everywhere = {noun: torch.ones(codes.grid, dtype=torch.bool) for noun in known}
        picture = Picture(
            "picture",
            torch.from_numpy(codes.values),
            torch.from_numpy(codes.indices).long(),
            known,
            everywhere,
        )
        split = build_split([picture], grid=codes.grid, known_nouns=known)
        scores = predict_scores(split, concept_space(dictionary, known, vectors), chosen)
        named = set(nouns_in(prompt, tuple(known)))
        highest = scores.amax(dim=(1, 2)).tolist()
        order = sorted(range(len(known)), key=lambda n: (known[n] not in named, -highest[n]))
        shown = order[:MOST_NOUNS]
        return {
            "nouns": {known[n]: _rounded(scores[n]) for n in shown},
            "settings": vars(chosen),
            "threshold": threshold,
            "note": _note(threshold, len(order) - len(shown)),
        }


def chosen_settings(cell: OpenCell) -> tuple[Settings, float | None]:
    """What `diffusae evaluate evaluation=composition` chose at a cell on the tuning split, and the
    threshold; the usual settings and None where it was not evaluated.
    """
    path = cell.settings.evaluation("composition") / "results.json"
    if not path.is_file():
        return Settings(), None
    for row in load_results(path):
        if row.metric == "composition":
            return typed(Settings, row.details["settings"]), float(row.details["threshold"])
    return Settings(), None


def _note(threshold: float | None, left_out: int) -> str:
    notes = []
    if threshold is None:
        notes.append(
            "This cell was not evaluated, so no threshold is known; run diffusae evaluate"
            " evaluation=composition."
        )
    if left_out:
        notes.append(f"{left_out} nouns with lower scores are left out.")
    return " ".join(notes)


def _rounded(scores: Tensor) -> Sequence[Sequence[float]]:
    return [[round(score, 4) for score in row] for row in scores.tolist()]
