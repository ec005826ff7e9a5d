"""Activation maps of latents over a picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from torch import Tensor

from diffusae.concepts.maps import resize_maps
from diffusae.errors import UserError
from diffusae.exploring.cells import OpenCell
from diffusae.report.pictures import heat_colours
from diffusae.report.strip import StripFigure, strip_figure

OPACITY = 0.6
COLUMNS = 6


@dataclass(frozen=True)
class ConceptMaps:
    """Where latents of one cell are active in one picture.

    Attributes:
        cell: the cell.
        prompt: what the picture was made from.
        picture: uint8 [height, width, 3].
        latents: the latents, one a map.
        values: their maps, [latents, h, w] over the cell's grid, in data units: how far the latent
            moves the update at each position.
    """

    cell: OpenCell
    prompt: str
    picture: UInt8[np.ndarray, "height width 3"]
    latents: list[int]
    values: Float[Tensor, "latents h w"]

    def top(self, n: int) -> ConceptMaps:
        """The `n` maps with the largest means over the picture, the largest first: the paper's
        ranking.

        Raises:
            UserError: n below 1.
        """
        if n < 1:
            raise UserError(f"top({n}): a number from 1 is needed")
        order = self.values.mean(dim=(1, 2)).argsort(descending=True, stable=True)[:n]
        chosen = [self.latents[row] for row in order.tolist()]
        return ConceptMaps(self.cell, self.prompt, self.picture, chosen, self.values[order])

    def together(self) -> Float[Tensor, "h w"]:
        """One map of all these latents: the sum, such as of a concept's latents."""
        return self.values.sum(dim=0)

    def drawn(self) -> UInt8[np.ndarray, "height width 3"]:
        """One map of all these latents over the picture."""
        return over(self.picture, self.together())

    def plot(self) -> StripFigure:
        """The picture, and every map over it from 0 (dark) to its own largest value (bright)."""
        shown = [("picture", self.picture)]
        for latent, values in zip(self.latents, self.values, strict=True):
            caption = f"{latent} {self.cell.labels_of(latent)}".strip()
            shown.append((_short(caption), over(self.picture, values)))
        title = f"{self.cell.name}, {self.prompt!r}"
        return strip_figure(shown, title=title, columns=min(COLUMNS, len(shown)))

    def table(self) -> pd.DataFrame:
        """One row a map: latent, labels, mean and largest value (data units), and the share of
        positions where it is active.
        """
        flat = self.values.flatten(1)
        return pd.DataFrame(
            {
                "latent": self.latents,
                "labels": [self.cell.labels_of(latent) for latent in self.latents],
                "mean": flat.mean(dim=1).tolist(),
                "largest": flat.amax(dim=1).tolist(),
                "active_share": (flat > 0).float().mean(dim=1).tolist(),
            }
        )


def over(
    picture: UInt8[np.ndarray, "height width 3"], values: Float[Tensor, "h w"]
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture under a map, which is stretched smoothly; 0 is dark, the map's largest value
    bright.
    """
    height, width = picture.shape[:2]
    stretched = resize_maps(values[None].float(), (height, width))[0].numpy()
    colours = heat_colours(stretched, low=0.0, high=float(values.max()))
    return ((1 - OPACITY) * picture + OPACITY * colours).round().astype(np.uint8)


def _short(caption: str, most: int = 22) -> str:
    return caption if len(caption) <= most else caption[: most - 1] + "…"
