"""One picture of a prompt, with what chosen cells did while it was made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from diffusae.activations.schema import Cell
from diffusae.backbone.blocks import Grid
from diffusae.backbone.families.table import adapter_of
from diffusae.backbone.settings import ModelSettings
from diffusae.backbone.text_layers import names_text_layer
from diffusae.capture.generate import generate
from diffusae.capture.text import own_tokens
from diffusae.concepts.maps import maps_of
from diffusae.errors import UserError, refuse_text, together, unknown
from diffusae.exploring.cells import Latents, OpenCell
from diffusae.exploring.maps import ConceptMaps
from diffusae.exploring.token_maps import TokenMaps
from diffusae.sae.sparsity import Codes
from diffusae.study.model import sampling, scheduler_timestep
from diffusae.study.study import Study


@dataclass(frozen=True)
class RecordedRun:
    """One generation, and the updates of the cells that were recorded in it.

    Attributes:
        prompt, seed: what the picture was made from.
        picture: uint8 [height, width, 3].
        recorded: {coordinates of a cell: its update, float32 [positions, d_in], positions row-major
            over the grid}.
        grids: {block: (height, width) of its positions}.
        tokens: {coordinates of a cell of the text's stream: the tokens of its rows}: the prompt's
            own, without padding. Of a family whose tokens are not known they are numbers.
    """

    prompt: str
    seed: int
    picture: UInt8[np.ndarray, "height width 3"]
    recorded: dict[Cell, Float[Tensor, "positions d_in"]]
    grids: dict[str, Grid]
    tokens: dict[Cell, list[str]] = field(default_factory=dict)

    def updates(self, cell: OpenCell) -> Float[Tensor, "positions d_in"]:
        """What the cell's hookpoint names, in data units: by default what the block added.

        Raises:
            UserError: the cell was not recorded.
        """
        if cell.place not in self.recorded:
            raise unknown(
                "cell of this run (generate(..., capture=[cell]) records more):",
                cell.place.key,
                [place.key for place in self.recorded],
            )
        return self.recorded[cell.place]

    def codes(self, cell: OpenCell) -> Codes:
        """The codes of every position: values [positions, k] in data units, and indices of the
        latents.

        Raises:
            UserError: the cell was not recorded, or its autoencoder is of another block.
        """
        sae, updates = cell.sae, self.updates(cell)
        if sae.d_in != updates.shape[1]:
            raise UserError(
                f"the autoencoder {cell.sae_directory} takes vectors of {sae.d_in} entries, and the"
                f" updates of {cell.place.key} have {updates.shape[1]}; choose the cell that it was"
                " trained on"
            )
        values, indices = sae.encode(updates.to(sae.b.device))
        return Codes(values.cpu(), indices.cpu())

    def maps(
        self, cell: OpenCell, latents: Latents | Sequence[int] | str | None = None
    ) -> ConceptMaps:
        """Where latents of a cell are active in this picture.

        Args:
            cell: a recorded cell.
            latents: the latents of a concept, such as `cell.concept("fish")` or "fish"; or indices.
                None: every latent that is active anywhere.

        Raises:
            UserError: the cell was not recorded, or is of the text's stream (`token_maps`); an
                unknown concept, a latent out of range.
        """
        values, indices = self.codes(cell)
        if cell.place in self.tokens:
            raise UserError(f"{cell.settings.text_fault}, or ask for token_maps(cell)")
        wanted = self._wanted(cell, latents, values, indices)
        height, width = self.grids[cell.block]
        chosen = torch.tensor(wanted, dtype=torch.long)
        maps = maps_of(chosen, values, indices, (height, width))
        return ConceptMaps(cell, self.prompt, self.picture, wanted, maps)

    def token_maps(
        self, cell: OpenCell, latents: Latents | Sequence[int] | None = None
    ) -> TokenMaps:
        """What latents of a cell of the text's stream do at every token of the prompt.

        Args:
            latents: as in `maps`, without a word: text cells have no labels.

        Raises:
            UserError: the cell was not recorded, or is none of the text's stream.
        """
        values, indices = self.codes(cell)
        if cell.place not in self.tokens:
            raise UserError(
                f"{cell.name} reads the picture's tokens; ask for maps(cell), or choose a block"
                " with @text"
            )
        tokens = self.tokens[cell.place]
        wanted = self._wanted(cell, latents, values, indices)
        maps = maps_of(torch.tensor(wanted, dtype=torch.long), values, indices, (1, len(tokens)))
        return TokenMaps(cell, self.prompt, self.picture, tokens, wanted, maps[:, 0])

    @staticmethod
    def _wanted(
        cell: OpenCell,
        latents: Latents | Sequence[int] | str | None,
        values: Tensor,
        indices: Tensor,
    ) -> list[int]:
        if latents is None:
            return torch.unique(indices[values > 0]).tolist()
        if isinstance(latents, Latents):
            return list(latents.indices)
        if isinstance(latents, str):
            return list(cell.concept(latents).indices)
        return list(cell.latents(latents).indices)

    def plot(self) -> Any:
        """The picture as an image that a notebook shows."""
        from PIL import Image

        return Image.fromarray(self.picture)


def record_run(
    pipe: Any, settings: Study, prompt: str, *, seed: int, cells: Sequence[Cell]
) -> RecordedRun:
    """Make one picture with a study's model, and record these cells on the way.

    Raises:
        UserError: an empty prompt, a block that the model's configuration does not name.
    """
    refuse_text("capture", cells)
    model, hookpoints = ModelSettings.of(settings.cfg), settings.hookpoints
    together(_faults(list(hookpoints), prompt, cells))
    adapter = adapter_of(pipe)
    timesteps = {
        cell.t: scheduler_timestep(pipe, adapter, model, cell.t) for cell in dict.fromkeys(cells)
    }
    made = generate(
        pipe,
        [prompt],
        [seed],
        **sampling(model),
        hookpoints={block: hookpoints[block] for block in {cell.block for cell in cells}},
        timesteps=sorted(set(timesteps.values())),
        conditionings=sorted({cell.conditioning for cell in cells}),
    )
    assert made.images is not None
    recorded, tokens = {}, {}
    for cell in cells:
        key = cell.block, timesteps[cell.t], cell.conditioning
        recorded[cell] = made.updates[key][0].float()
        if key in made.lengths:
            length, text_tokens = made.lengths[key][0], model.text_tokens
            own = own_tokens(
                pipe, prompt, cell.conditioning, length=length, text_tokens=text_tokens
            )
            own = own or {place: f"#{place}" for place in range(length)}
            recorded[cell], tokens[cell] = recorded[cell][list(own)], list(own.values())
    return RecordedRun(prompt, seed, made.images[0], recorded, made.grids, tokens)


def _faults(blocks: Sequence[str], prompt: str, cells: Sequence[Cell]) -> list[str]:
    faults = [] if prompt.strip() else ["the prompt is empty; say what the picture shows"]
    for block in dict.fromkeys(cell.block for cell in cells):
        if names_text_layer(block):
            faults.append(
                f"{block} is a layer of a text encoder; a generation records blocks of the"
                f" denoiser: {', '.join(sorted(blocks))}"
            )
        elif block not in blocks:
            faults.append(str(unknown("block", block, blocks)))
    return faults
