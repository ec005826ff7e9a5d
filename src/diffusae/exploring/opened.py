"""A study or a model that is open: its cells, pictures of it, and pictures with edits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from diffusae.activations.schema import Cell
from diffusae.backbone.settings import ModelSettings
from diffusae.errors import UserError, unknown
from diffusae.exploring.cells import Latents, OpenCell, not_yet, trained_cells
from diffusae.exploring.concept_table import ConceptTable, concept_table
from diffusae.exploring.recording import RecordedRun, record_run
from diffusae.exploring.steered import SteeredPicture, steer_latents
from diffusae.labelling.label import word_embedding
from diffusae.study.model import load_model
from diffusae.study.settings import GridSettings
from diffusae.study.study import Study

NOWHERE = "(no model)"
"""A model source that is none: the study is opened without its model."""


class UntrustedSource(UserError):
    """A study's record names a model source that neither the user nor diffusae's own configuration
    names.

    Attributes:
        source: what the record names; None: it names another file of weights.
    """

    def __init__(self, message: str, source: object) -> None:
        super().__init__(message)
        self.source = source


class OpenModel:
    """A model without a study: `diffusae.load_model`.

    Args:
        settings: the configuration of the model, as a command composes it.
    """

    def __init__(self, settings: Study) -> None:
        self.settings = settings

    @cached_property
    def pipe(self) -> Any:
        """The diffusers pipeline, loaded at the first use."""
        return load_model(ModelSettings.of(self.settings.cfg))

    @property
    def blocks(self) -> list[str]:
        """The short names of the model's blocks, as `cell` takes them."""
        return [name for name, path in self.settings.cfg.model.hookpoints.items() if path]

    def cell(
        self, block: str, *, t: float, conditioning: str = "cond", sae: Path | str | None = None
    ) -> OpenCell:
        """A place in the generation, where updates are recorded.

        Args:
            block: the block's short name, such as "down".
            t: normalised diffusion time: 1 is the first reverse step, 0 the last.
            conditioning: the guidance branch, "cond" or "uncond".
            sae: the directory of an autoencoder that was trained there (`sae.safetensors`,
                `cfg.json`); None: updates can be recorded, and there are no codes.

        Raises:
            UserError: an unknown block or conditioning, t outside [0, 1].
        """
        if block not in self.blocks:
            raise unknown(f"block of model {self.settings.cfg.model.name}:", block, self.blocks)
        place = Cell(self.settings.cfg.model.name, block, t, conditioning)
        directory = None if sae is None else Path(sae)
        return OpenCell(self.settings, place, directory, self.settings.cfg.sae.tag)

    def generate(
        self, prompt: str, *, seed: int = 0, capture: OpenCell | Sequence[OpenCell] = ()
    ) -> RecordedRun:
        """Make one picture, and record what these cells do on the way.

        The picture of a prompt and a seed is the one that the commands make.

        Raises:
            UserError: an empty prompt, a seed below 0, a cell that cannot be recorded.
        """
        if isinstance(capture, OpenCell):
            capture = [capture]
        cells = [cell.place for cell in capture]
        return record_run(self.pipe, self.settings, prompt, seed=seed, cells=cells)

    def steer(
        self,
        run: RecordedRun,
        latents: Latents,
        *,
        strength: float,
        region: str | None = None,
        intervention: str = "spatial",
    ) -> SteeredPicture:
        """Make a run's picture again with latents edited, in the window of their cell's t.

        Args:
            run: what `generate` gave.
            latents: `cell.latent(373)`, or `cell.concept("fish")`.
            strength: above 0; see docs/interventions.md for its units.
            region: of "spatial": top_left, top_right, bottom_left, bottom_right, top, bottom, left,
                right, whole, or the path of a painted PNG.
            intervention: "spatial", "global", "amplify", "ablate" or "clamp".

        Raises:
            UserError: an unknown intervention or region, a strength that cannot be.
        """
        return steer_latents(
            self.pipe, run, latents, strength=strength, region=region, intervention=intervention
        )


class OpenStudy(OpenModel):
    """A study with trained autoencoders: `diffusae.open`."""

    @property
    def directory(self) -> Path:
        """Where the study lies."""
        return self.settings.directory

    @cached_property
    def cells(self) -> list[OpenCell]:
        """Every cell with a finished autoencoder, by name."""
        return trained_cells(self.settings)

    def cell(
        self,
        block: str,
        *,
        t: float,
        conditioning: str = "cond",
        sae: Path | str | None = None,
        tag: str | None = None,
    ) -> OpenCell:
        """The cell of the study at a block and a time.

        Args:
            block, t, conditioning, sae: see `OpenModel.cell`.
            tag: which of a cell's autoencoders; None: the study's own tag, or the only one.

        Raises:
            UserError: the study has no such block or t; or the cell is not trained, then the
                command that trains it is named.
        """
        if sae is not None:
            return super().cell(block, t=t, conditioning=conditioning, sae=sae)
        place = Cell(self.settings.cfg.model.name, block, t, conditioning)
        at_place = {cell.tag: cell for cell in self.cells if cell.place == place}
        if not at_place:
            raise self._missing(place)
        wanted = tag or self.settings.cfg.sae.tag
        if tag is None and len(at_place) == 1:
            (wanted,) = at_place
        if wanted not in at_place:
            raise unknown(f"tag of {place.key}", wanted, at_place)
        return at_place[wanted]

    def _missing(self, place: Cell) -> UserError:
        grid = GridSettings.of(self.settings.cfg)
        blocks = {*grid.blocks, *(cell.block for cell in self.cells)}
        times = {*map(float, grid.timesteps), *(cell.t for cell in self.cells)}
        if place.block not in blocks:
            return unknown("block of this study:", place.block, blocks)
        if place.t not in times:
            known = ", ".join(f"{t:g}" for t in sorted(times, reverse=True))
            return UserError(f"this study has no t={place.t:g}; its moments are t = {known}")
        return not_yet(self.settings.at(place), "train")

    def concepts(self, word: str | None = None) -> ConceptTable:
        """The labelled latents of all cells, or those of a word.

        A word that is a label nowhere is answered with the nearest labels.

        Raises:
            UserError: no cell is labelled, or the embedding does not know the word.
        """
        return concepts_of(self.settings, self.cells, word)

    def __repr__(self) -> str:
        return f"<study {self.directory}, {len(self.cells)} trained cells>"


def concepts_of(settings: Study, cells: Sequence[OpenCell], word: str | None) -> ConceptTable:
    """The labelled latents of these cells; see `OpenStudy.concepts`."""
    dictionaries = {cell.name: cell.dictionary for cell in cells if cell.labelled}
    if not dictionaries:
        raise UserError(
            f"no cell of {settings.directory} is labelled; run `diffusae label`, or `diffusae run`"
        )
    return concept_table(dictionaries, word, lambda: word_embedding(settings))
