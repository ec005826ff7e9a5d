"""Regions of a picture, named or painted, as shares of a block's positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from diffusae.backbone.blocks import Grid
from diffusae.errors import UserError, together, unknown

# (top, bottom, left, right) as shares of the picture.
NAMED: dict[str, tuple[float, float, float, float]] = {
    "top_left": (0, 0.5, 0, 0.5),
    "top_right": (0, 0.5, 0.5, 1),
    "bottom_left": (0.5, 1, 0, 0.5),
    "bottom_right": (0.5, 1, 0.5, 1),
    "top": (0, 0.5, 0, 1),
    "bottom": (0.5, 1, 0, 1),
    "left": (0, 1, 0, 0.5),
    "right": (0, 1, 0.5, 1),
    "whole": (0, 1, 0, 1),
}
_RESOLUTION = 256


class Region:
    """Where an edit acts, at any resolution.

        name: one of `NAMED`, or the path of a picture whose bright pixels (at least half of white)
            are the region.

    Raises:
        UserError: an unknown name, a file that is no picture, a picture without a bright pixel.
    """

    def __init__(self, name: str | Path) -> None:
        self.name = str(name)
        self._shares: dict[Grid, Tensor] = {}
        if self.name in NAMED:
            top, bottom, left, right = (round(_RESOLUTION * share) for share in NAMED[self.name])
            self._mask = torch.zeros(_RESOLUTION, _RESOLUTION)
            self._mask[top:bottom, left:right] = 1
        elif Path(name).suffix:
            self._mask = _painted(Path(name))
        else:
            raise unknown("region (or the path of a painted mask)", self.name, NAMED)

    @classmethod
    def of_rows(cls, rows: Sequence[str]) -> Self:
        """The region that rows of 0 and 1 paint over the whole picture, at any resolution.

        Example: ["0011", "0000"] is the upper right quarter.

        Raises:
            UserError: rows of unequal length, other characters, no 1.
        """
        together(_faults_of_rows(rows))
        region = cls.__new__(cls)
        region.name, region._shares = "painted", {}
        region._mask = torch.tensor([[float(one) for one in row] for row in rows])
        return region

    def shares(self, grid: Grid) -> Float[Tensor, " P"]:
        """The share of every position inside the region, range [0, 1], row-major over (h, w).
        In a video it is the same region of every frame.

        Raises:
            UserError: the region covers less than half of every position, or they are tokens of a
                text.
        """
        if grid in self._shares:
            return self._shares[grid]
        if len(grid) == 1:
            raise UserError(
                f"the edit acts on {grid[0]} tokens of the text, which have no place in the"
                f" picture, and so not in the region {self.name}; edit a hookpoint without @text,"
                " or leave the region out"
            )
        height, width = grid[-2:]
        shares = F.adaptive_avg_pool2d(self._mask[None, None], (height, width)).flatten()
        if float(shares.max()) < 0.5:
            raise UserError(
                f"the region {self.name} covers no position of a {height} x {width} grid by"
                " half; paint a larger one"
            )
        self._shares[grid] = shares.repeat(math.prod(grid[:-2]))
        return self._shares[grid]

    def mask(self, size: tuple[int, int]) -> Tensor:
        """The region at a picture's size, bool [height, width]."""
        return F.adaptive_avg_pool2d(self._mask[None, None], size)[0, 0] >= 0.5

    def lit(
        self, picture: UInt8[np.ndarray, "height width 3"]
    ) -> UInt8[np.ndarray, "height width 3"]:
        """The picture with everything outside the region darkened to a quarter."""
        inside = self.mask(picture.shape[:2]).numpy()[..., None]
        return np.where(inside, picture, picture // 4)


def _faults_of_rows(rows: Sequence[str]) -> list[str]:
    if not rows or {len(row) for row in rows} != {len(rows[0])} or set("".join(rows)) - {"0", "1"}:
        return [
            "a painted region is rows of 0 and 1 that are equally long, such as ['0011', '0000']"
        ]
    return [] if "1" in "".join(rows) else ["the painted region is empty; paint some of it"]


def _painted(path: Path) -> Tensor:
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("L"), dtype=np.float32) / 255
    except FileNotFoundError:
        raise UserError(
            f"there is no region {path}; give a painted mask, or one of {', '.join(NAMED)}"
        ) from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise UserError(f"{path} is not a picture ({error}); paint the region as a PNG") from error
    mask = torch.from_numpy(pixels >= 0.5).float()
    if not mask.any():
        raise UserError(
            f"{path} has no bright pixel, so the region is empty; paint it white on black"
        )
    return mask
