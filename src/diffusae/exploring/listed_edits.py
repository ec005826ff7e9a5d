"""From an edit list to the edits of one generation, by the cells of an open study."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from torch import Tensor

from diffusae.backbone.text_layers import names_text_layer
from diffusae.errors import UserError, together, unknown
from diffusae.exploring.cells import OpenCell
from diffusae.interventions.edits import Change, Edit, GlobalPush
from diffusae.interventions.text import TextEdit
from diffusae.interventions.windows import Window, window_at
from diffusae.runs.record import read_record
from diffusae.steering.edit_list import EditList, LatentEdit, ListedEdit, TextEditEntry, region_of
from diffusae.steering.latent_changes import changes_of_latents
from diffusae.steering.methods import random_sets
from diffusae.steering.text_steering import Steered, at_layer, faults_of
from diffusae.steering.trials import style_direction
from diffusae.study.study import Study, build

LOADED_CELLS = 24
"""Autoencoders that are kept: some 1 GB at d_in = 1280 and d_sae = 5120."""
STYLE_LATENTS, UNDER_OBJECTS = 64, ("style",)
"""Of a style, as in conf/intervention/global.yaml."""


@dataclass(frozen=True)
class PreparedEdit:
    """An edit of updates, and what it was made from.

    Attributes:
        cell: whose autoencoder it takes.
        edit: what `interventions.steer.steer` applies.
        latents: the latents of its direction or codes; empty for a style, which weighs many.
    """

    cell: OpenCell
    edit: Edit
    latents: tuple[int, ...]


@dataclass(frozen=True)
class PreparedEdits:
    """What one generation is edited by: updates in the order of the list, and the text."""

    of_updates: tuple[PreparedEdit, ...]
    of_text: tuple[TextEdit, ...]

    @property
    def all(self) -> list[Edit | TextEdit]:
        """As `interventions.steer.steer` takes them."""
        return [*self.of_text, *(one.edit for one in self.of_updates)]

    @property
    def first(self) -> float:
        """The t before which the generation is as without the edits; infinity: there is none."""
        if self.of_text:  # another encoding changes every step
            return math.inf
        return max(one.edit.window[0] for one in self.of_updates)


class EditPreparer:
    """Makes edits from edit lists. Autoencoders and directions of styles are kept for the next.

    Args:
        settings: the study's configuration.
        cells: the study's trained cells by name.
        device: where the model is; it is asked for after all that can be refused was looked at.
    """

    def __init__(
        self, settings: Study, cells: Mapping[str, OpenCell], device: Callable[[], Any]
    ) -> None:
        self.settings, self.cells, self._device = settings, cells, device
        self._fresh = lru_cache(LOADED_CELLS)(lambda name: replace(cells[name]))
        self._styles = lru_cache(LOADED_CELLS)(self._style)

    def check(self, edits: EditList) -> None:
        """Refuse what this study cannot do, before a model is loaded.

        Raises:
            UserError: an unknown cell, latent, concept, style, layer; all in one error.
        """
        faults: list[str] = []
        for number, one in enumerate(edits.edits, start=1):
            try:
                if isinstance(one, TextEditEntry):
                    self._steered(one)
                else:
                    self._latents_of(one)
            except UserError as error:
                faults += [f"edit {number}: {fault}" for fault in error.faults]
        together(faults)

    def settings_of(self, edit: ListedEdit) -> Study:
        """The study at the cell or layer whose autoencoder an edit takes."""
        if isinstance(edit, TextEditEntry):
            return self._steered(edit).study
        return self.cell(edit.cell).settings

    def parents(self, edits: EditList) -> dict[str, str]:
        """The signatures of the trainings and labellings that the edits take, for a record."""
        made: dict[str, str] = {}
        for one in edits.edits:
            if isinstance(one, TextEditEntry):
                steered = self._steered(one)
                made[f"text {steered.study.directory.name} {one.layer}"] = steered.trained()
            else:
                made |= self.cell(one.cell).parents()
        return made

    def prepare(self, edits: EditList) -> PreparedEdits:
        """The edits of a list."""
        return self._prepared(edits, self._latents_of)

    def random_twin(self, edits: EditList) -> PreparedEdits | None:
        """The same edits with random latents: as many, in the same form, at the same strength.

        They are drawn from the latents that fire on the pictures of the split dictionary, where the
        cell is labelled, and never from the edit's own. Which are drawn depends on the edits alone.
        A style gets one random latent in the place of its direction. Edits of text stay as they
        are. None: no latents are edited.
        """
        if not any(isinstance(one, LatentEdit) for one in edits.edits):
            return None
        drawn = np.random.default_rng(int(edits.digest, 16))

        def random_latents(edit: LatentEdit) -> tuple[int, ...]:
            own = self._latents_of(edit)
            free = [latent for latent in _alive(self.cell(edit.cell)) if latent not in own]
            if not free:
                raise UserError(f"{edit.cell} has no other latent to draw")
            return tuple(random_sets(free, len(own), 1, drawn)[0])

        return self._prepared(edits, random_latents)

    def _prepared(
        self, edits: EditList, latents_of: Callable[[LatentEdit], tuple[int, ...]]
    ) -> PreparedEdits:
        self.check(edits)
        hookpoints = self.settings.hookpoints
        of_updates: list[PreparedEdit] = []
        of_text: list[TextEdit] = []
        for one in edits.edits:
            if isinstance(one, TextEditEntry):
                of_text.append(self._steered(one).edits(self._device())(one.strength))
                continue
            cell, latents = self.cell(one.cell), latents_of(one)
            edit = Edit(
                hookpoints[cell.block],
                self._change(one, latents),
                window=window_of(one, cell),
                conditionings=one.conditionings or (cell.conditioning,),
            )
            of_updates.append(PreparedEdit(cell, edit, latents))
        return PreparedEdits(tuple(of_updates), tuple(of_text))

    def _change(self, edit: LatentEdit, latents: tuple[int, ...]) -> Change:
        sae = self.cell(edit.cell).sae.to(self._device())
        if not latents:
            direction = self._styles(edit.cell, str(edit.concept))
            return GlobalPush(sae, direction, strength=edit.strength)
        return changes_of_latents(
            edit.intervention,
            sae,
            latents,
            region=region_of(edit.region),
            outside=edit.outside,
            source=region_of(edit.source),
        )(edit.strength)

    def _latents_of(self, edit: LatentEdit) -> tuple[int, ...]:
        """The latents of an edit; empty for a style."""
        cell = self.cell(edit.cell)
        if names_text_layer(cell.block):
            raise UserError(
                f"{cell.name} belongs to a text encoder, which has no updates; give an edit with"
                f" layer: {cell.block} and a concept"
            )
        fault = cell.settings.text_fault
        if fault and (edit.region or edit.source or edit.latents is None):
            raise UserError(f"{fault}, or give latents and no region")
        if edit.latents is not None:
            return cell.latents(edit.latents).indices
        concept = str(edit.concept)
        if edit.intervention == "global" and concept in self.styles:
            return ()
        return cell.concept(concept).indices

    @cached_property
    def styles(self) -> list[str]:
        """The values of the annotator's factors, such as night."""
        return [value for values in self.annotator.factors.values() for value in values]

    @cached_property
    def annotator(self) -> Any:
        """What finds objects and styles."""
        return build(self.settings.cfg.annotator, "annotator")

    def cell(self, name: str) -> OpenCell:
        """A cell with an autoencoder and a dictionary that are kept for a while. (The study's own
        cells keep what they load for good.)

        Raises:
            UserError: the study has no such cell.
        """
        if name not in self.cells:
            raise unknown("cell of this study:", name, self.cells)
        return self._fresh(name)

    def _style(self, name: str, style: str) -> Tensor:
        return style_direction(
            self.cells[name].settings,
            style,
            self.annotator,
            n_latents=STYLE_LATENTS,
            under_objects=UNDER_OBJECTS,
        )

    def _steered(self, entry: TextEditEntry) -> Steered:
        if entry.name is not None and entry.name not in (beside := studies_beside(self.settings)):
            raise unknown("study beside this one:", entry.name, beside)
        layer = at_layer(self.settings, entry.layer, name=entry.name, sae_tag=entry.sae_tag)
        conditionings = entry.conditionings
        together(
            faults_of(
                layer,
                layer=entry.layer,
                concept=entry.concept,
                strengths=[entry.strength],
                conditionings=conditionings,
            )
        )
        steered = Steered(layer, entry.concept, conditionings)
        steered.trained()
        return steered


@dataclass(frozen=True)
class TextLayer:
    """A layer of a text encoder that has an autoencoder, as an edit names it.

    `name`: of the study that has it; None: this one.
    """

    layer: str
    sae_tag: str
    name: str | None


def text_layers(settings: Study) -> list[TextLayer]:
    """The layers that can be steered: those of this study, and of the studies beside it that have
    the same model.
    """
    layers = []
    for name in (None, *studies_beside(settings)):
        directory = settings.directory if name is None else settings.directory.parent / name
        for path in sorted((directory / "sae").glob("text*-t1.00-cond-*")):
            layer, _, tag = path.name.partition("-t1.00-cond-")
            record = read_record(path) if names_text_layer(layer) else None
            cell = {} if record is None else record.determines.get("cell")
            if isinstance(cell, Mapping) and cell.get("model") == settings.cfg.model.name:
                layers.append(TextLayer(layer, tag, name))
    return layers


def studies_beside(settings: Study) -> list[str]:
    """The names of the other studies in the directory of this one."""
    own = settings.directory
    found = (path.parent for path in own.parent.glob("*/sae"))
    return sorted(path.name for path in found if path.name != own.name)


def window_of(edit: LatentEdit, cell: OpenCell) -> Window:
    """The edit's own window, or that of its cell's t."""
    return window_at(cell.t) if edit.window is None else edit.window


def _alive(cell: OpenCell) -> Sequence[int]:
    if not cell.labelled:
        return range(cell.sae.d_sae)
    latents = cell.dictionary.latents
    alive: Any = latents[latents["firing_frequency"] > 0]["latent"]
    return alive.tolist()
