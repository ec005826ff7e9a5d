"""The directions of latents: which latents of this cell, of other cells and of other seeds move an
update in nearly the same direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from diffusae.explorer.catalogue import CatalogueCell
from diffusae.explorer.kept import Kept
from diffusae.sae.storage import load_sae

MOST_KEPT = 256 << 20
"""Bytes of directions in memory, float16: those of 18 cells of SD 1.4."""


@dataclass(frozen=True)
class Partner:
    """A latent and the cosine of its direction with that of the latent that was asked for."""

    cell: CatalogueCell
    latent: int
    cosine: float


class Directions:
    """The unit directions of every cell's latents, read when they are first needed."""

    def __init__(self) -> None:
        self._kept: Kept[Tensor] = Kept(MOST_KEPT, lambda part: part.numel() * part.element_size())

    def of(self, cell: CatalogueCell) -> Float[Tensor, "d_sae d_in"]:
        """The directions of a cell in data units, float16.

        Raises:
            UserError: the autoencoder's files are damaged.
        """
        directory = cell.cell.sae_directory
        assert directory is not None
        return self._kept.get(cell.name, lambda: load_sae(directory)[0].directions.detach().half())

    def nearest(self, cell: CatalogueCell, latent: int, count: int) -> list[Partner]:
        """The latents of the same cell with the nearest directions, without the latent itself."""
        cosines = self._cosines(cell, self.of(cell)[latent])
        cosines[latent] = -torch.inf
        values, latents = cosines.topk(min(count, len(cosines) - 1))
        pairs = zip(latents.tolist(), values.tolist(), strict=True)
        return [Partner(cell, other, round(value, 4)) for other, value in pairs]

    def partners(
        self, cell: CatalogueCell, latent: int, others: Sequence[CatalogueCell]
    ) -> list[Partner]:
        """The nearest latent of every other cell whose updates have as many entries."""
        direction = self.of(cell)[latent]
        partners = []
        for other in others:
            if other.name == cell.name or other.d_in != cell.d_in:
                continue
            value, nearest = self._cosines(other, direction).max(dim=0)
            partners.append(Partner(other, int(nearest), round(float(value), 4)))
        return partners

    def _cosines(self, cell: CatalogueCell, direction: Tensor) -> Float[Tensor, " d_sae"]:
        return (self.of(cell) @ direction).float()
