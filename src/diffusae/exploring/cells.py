"""The cells of a study as one explores them: the autoencoder, the dictionary, chosen latents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from diffusae.activations.codes import padded
from diffusae.activations.schema import Cell
from diffusae.backbone.text_layers import names_text_layer
from diffusae.concepts.dictionary import ConceptDictionary
from diffusae.concepts.words import Vocabulary
from diffusae.errors import UserError, unknown
from diffusae.exploring.concept_table import ConceptTable, concept_table
from diffusae.labelling.codes import code_source
from diffusae.labelling.label import word_embedding
from diffusae.parsing import reading, typed
from diffusae.runs.record import RECORD, parent_signature
from diffusae.runs.survey import finished_runs
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import Codes
from diffusae.sae.storage import load_sae
from diffusae.study.study import Study


@dataclass(frozen=True)
class OpenCell:
    """One (block, t, conditioning) with the autoencoder that was trained there.

    Attributes:
        study: the study's configuration.
        place: the cell's coordinates: model, block, t and conditioning.
        sae_directory: the directory of the autoencoder; None: there is none.
        tag: of the autoencoder.
    """

    study: Study
    place: Cell
    sae_directory: Path | None
    tag: str

    @classmethod
    def of_study(cls, settings: Study) -> OpenCell:
        """The cell that a configuration chooses."""
        return cls(settings, settings.cell, settings.sae, settings.cfg.sae.tag)

    @cached_property
    def settings(self) -> Study:
        """The study's configuration at this cell, made at the first use: it takes longer than all
        else that a list of many cells needs.
        """
        at_cell = self.study.at(self.place)
        at_cell.cfg.sae.tag = self.tag
        return at_cell

    @property
    def block(self) -> str:
        """The block's short name, such as `down`."""
        return self.place.block

    @property
    def in_picture(self) -> bool:
        """Whether its positions lie in the picture; not those of a text's tokens."""
        return not names_text_layer(self.block) and not self.study.reads_text(self.block)

    @property
    def t(self) -> float:
        """Normalised diffusion time: 1 is the first reverse step, 0 the last."""
        return self.place.t

    @property
    def conditioning(self) -> str:
        """`cond` or `uncond`."""
        return self.place.conditioning

    @property
    def name(self) -> str:
        """The name of the cell's directories, such as `down-t0.50-cond-k10`."""
        return f"{self.place.key}-{self.tag}"

    @cached_property
    def sae(self) -> SparseAutoencoder:
        """The trained autoencoder, loaded at the first use.

        Raises:
            UserError: the cell has none, or its files are damaged.
        """
        if self.sae_directory is None:
            raise UserError(
                f"{self.place.key} has no autoencoder; give the directory of one:"
                f" cell({self.block!r}, t={self.t:g}, sae=DIRECTORY), or open a finished study"
            )
        if self.sae_directory == self.settings.sae and not self.sae_directory.is_dir():
            raise not_yet(self.settings, "train")
        return load_sae(self.sae_directory)[0]

    @cached_property
    def dictionary(self) -> ConceptDictionary:
        """The concept dictionary, loaded at the first use.

        Raises:
            UserError: the cell is not labelled, or a file of the dictionary is damaged.
        """
        if not self.labelled:
            raise not_yet(self.settings, "label")
        return ConceptDictionary.load(self.concepts_directory)

    @property
    def labelled(self) -> bool:
        """Whether there is a finished dictionary of this cell."""
        return (self.concepts_directory / "dictionary.json").is_file()

    @property
    def concepts_directory(self) -> Path:
        """Where the dictionary of this cell lies."""
        return self.study.directory / "concepts" / self.name

    def evaluation(self, metric: str) -> Path:
        """Where the results of a metric at this cell lie."""
        return self.study.directory / "evaluation" / metric / self.name

    def latent(self, *indices: int) -> Latents:
        """One latent or several, by their indices.

        Raises:
            UserError: an index that the autoencoder does not have.
        """
        return self.latents(indices)

    def latents(self, indices: Sequence[int]) -> Latents:
        """The latents of these indices; see `latent`."""
        wrong = [index for index in indices if not 0 <= index < self.sae.d_sae]
        if wrong or not indices:
            raise UserError(
                f"latents {list(wrong or indices)} do not exist in {self.name}; its autoencoder has"
                f" latents 0 to {self.sae.d_sae - 1}"
            )
        return Latents(self, tuple(indices))

    def concept(self, word: str) -> Latents:
        """Every latent whose dictionary entry holds the noun; a plural means its noun.

        Raises:
            UserError: no latent of this cell has the label; the labels are listed.
        """
        label = self.label_of(word)
        if label is None:
            raise unknown(f"concept in {self.name}", word, set(self.dictionary.table["label"]))
        return Latents(self, tuple(self.dictionary.latents_of(label)), label)

    def label_of(self, word: str) -> str | None:
        """The label of the dictionary that a word means; None: it means none."""
        labels = sorted(set(self.dictionary.table["label"]))
        return Vocabulary(labels).label_of(word) if labels else None

    def concepts(self, word: str | None = None) -> ConceptTable:
        """The labelled latents of this cell, or those of a word; see `concept_table`."""
        return concept_table(
            {self.name: self.dictionary}, word, lambda: word_embedding(self.settings)
        )

    def labels_of(self, latent: int) -> str:
        """The labels of a latent as text, the most frequent first; "" where there is none."""
        return ", ".join(self.dictionary.labels_of(latent)) if self.labelled else ""

    def codes(self, split: str) -> Iterator[tuple[str, Codes]]:
        """The codes of the collected pictures of a split, "dictionary", "tune" or "test": image id,
        values [positions, k] in data units and indices of the latents. An entry is active where its
        value is above 0.

        They are read one by one. Where updates are stored, they are encoded meanwhile.

        Raises:
            UserError: the collection is not finished, has no such split, or its codes belong to
                another autoencoder.
        """
        source = code_source(self.settings, self.sae)
        for picture in source(split):
            values, indices = padded([picture.codes], source.positions)
            yield picture.image_id, Codes(torch.from_numpy(values[0]), torch.from_numpy(indices[0]))

    def parents(self) -> dict[str, str]:
        """The signatures of the training and the labelling, for the record of what uses them."""
        made: dict[str, str] = {
            f"train {self.name}": parent_signature(self.settings.sae, stage="train")
        }
        if self.labelled:
            made[f"label {self.name}"] = parent_signature(self.settings.concepts, stage="label")
        return made

    def __repr__(self) -> str:
        return f"<cell {self.name}>"


@dataclass(frozen=True)
class Latents:
    """Some latents of one cell, such as those of a concept.

    Attributes:
        cell: the cell.
        indices: the latents, at least one.
        word: the label that they were chosen by; None: they were chosen by index.
    """

    cell: OpenCell
    indices: tuple[int, ...]
    word: str | None = None

    @property
    def name(self) -> str:
        """The word, or the latents as text: `fish`, `latent 373`, `latents 5, 373`."""
        if self.word is not None:
            return self.word
        listed = ", ".join(map(str, self.indices))
        return f"latent {listed}" if len(self.indices) == 1 else f"latents {listed}"

    def table(self) -> pd.DataFrame:
        """The dictionary's entries of these latents: latent, label, count, mean_iou, share."""
        table: Any = self.cell.dictionary.table
        return table[table["latent"].isin(self.indices)].reset_index(drop=True)

    def __repr__(self) -> str:
        return f"<{self.name} of {self.cell.name}>"


def trained_cells(settings: Study) -> list[OpenCell]:
    """Every finished autoencoder of the study, by name; what is not finished is named in the
    log.
    """
    return list(_trained_cells(settings))


def _trained_cells(settings: Study) -> Iterator[OpenCell]:
    for directory, record in finished_runs(settings.directory / "sae", "*"):
        with reading(directory / RECORD, remedy="train this cell again"):
            place = typed(Cell, dict(_mapping(record.determines.get("cell"))))
        if not directory.name.startswith(f"{place.key}-"):
            raise UserError(
                f"{directory} holds the autoencoder of {place.key}; move it to its own name"
            )
        tag = directory.name.removeprefix(f"{place.key}-")
        yield OpenCell(settings, place, directory, tag)


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def not_yet(settings: Study, stage: str) -> UserError:
    """The error for a cell that `stage` has not finished, with the command that does it."""
    cell = settings.cell
    done = {"train": "trained", "label": "labelled"}[stage]
    return UserError(
        f"{cell.key} of {settings.directory} is not {done}; run `diffusae {stage}"
        f" name={settings.name} block.name={cell.block} timestep.t={cell.t:g}"
        f" conditioning.branch={cell.conditioning}` with the study's other overrides"
    )
