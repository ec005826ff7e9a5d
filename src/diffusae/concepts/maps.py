"""Activation maps of latents, and their overlap with the masks of a picture's objects.

The codes of a picture are `values` and `indices`, both [P, k], with P positions row-major over the
grid (h, w). A latent is active at a position where its value is above 0. Work is done where the
codes are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffusae.concepts.settings import DictionarySettings, MapScaling

Mask = np.ndarray[Any, np.dtype[np.bool_]] | Tensor

BACKGROUND = "background"

_PIXELS_AT_ONCE = 2**24
"""Of maps that are resized: 64 MB in float32."""


def activation_maps(
    values: Float[Tensor, "n P k"], indices: Int[Tensor, "n P k"], grid: tuple[int, int]
) -> tuple[Int[Tensor, " active"], Int[Tensor, " active"], Float[Tensor, "active h w"]]:
    """The latents that are active anywhere in a picture, for n pictures: the number of the picture,
    the latent, and its map. Pictures ascend, and the latents of a picture.
    """
    pictures, positions, slots = torch.nonzero(values > 0, as_tuple=True)
    # One number for a picture and a latent; no latent has a number of 2^32.
    pairs = (pictures << 32) + indices[pictures, positions, slots]
    pairs, rows = torch.unique(pairs, return_inverse=True)
    maps = values.new_zeros(len(pairs), values.shape[1])
    maps[rows, positions] = values[pictures, positions, slots]
    return pairs >> 32, pairs & (2**32 - 1), maps.reshape(len(pairs), *grid)


def maps_of(
    latents: Int[Tensor, " n"],
    values: Float[Tensor, "P k"],
    indices: Int[Tensor, "P k"],
    grid: tuple[int, int],
) -> Float[Tensor, "n h w"]:
    """The maps of chosen latents, zero where they are not active."""
    chosen = indices[None] == latents[:, None, None]
    return (chosen * values).sum(dim=2).reshape(len(latents), *grid)


def scale_maps(maps: Float[Tensor, "n h w"], how: MapScaling) -> Float[Tensor, "n h w"]:
    """Scale every map to [0, 1]; *open* in the paper.

    "max" divides by the map's maximum. (After ReLU the minimum is 0 wherever the latent is silent
    at some position.) "minmax" subtracts the minimum first. A constant map ("minmax") or a map of
    zeros ("max") becomes zeros.
    """
    lowest = torch.zeros_like(maps[:, :1, :1])
    if how == "minmax":
        lowest = maps.amin(dim=(1, 2), keepdim=True)
    height = maps.amax(dim=(1, 2), keepdim=True) - lowest
    scaled = (maps - lowest) / height.clamp_min(torch.finfo(maps.dtype).tiny)
    return torch.where(height > 0, scaled, 0.0)


def resize_maps(maps: Float[Tensor, "n h w"], size: tuple[int, int]) -> Float[Tensor, "n H W"]:
    """Bilinear interpolation with the pixel centres of image libraries (align_corners=False)."""
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def masks_to_grid(masks: Bool[Tensor, "n H W"], grid: tuple[int, int]) -> Bool[Tensor, "n h w"]:
    """A grid cell belongs to the mask where the mask covers at least half of it (area average)."""
    return F.interpolate(masks[:, None].float(), size=grid, mode="area")[:, 0] >= 0.5


def share_of_positions(masks: Sequence[Mask], grid: tuple[int, int]) -> Float[Tensor, " P"]:
    """The share of each position that the masks cover, [0, 1], row-major; 0 without masks."""
    if not masks:
        return torch.zeros(grid[0] * grid[1])
    union = torch.from_numpy(np.stack([np.asarray(mask) for mask in masks]).any(axis=0)).float()
    return F.adaptive_avg_pool2d(union[None, None], grid).flatten()


def iou_matrix(first: Bool[Tensor, "a n"], second: Bool[Tensor, "b n"]) -> Float[Tensor, "a b"]:
    """Intersection over union of every pair. Range [0, 1], higher is better; two empty masks: 0."""
    first_, second_ = first.float(), second.float()
    intersection = first_ @ second_.T
    union = first_.sum(dim=1)[:, None] + second_.sum(dim=1)[None] - intersection
    return intersection / union.clamp_min(1)


def label_masks(
    masks: Mapping[str, Mask], *, minimum_area: float, include_background: bool
) -> tuple[list[str], Bool[Tensor, "labels H W"]]:
    """One picture's labels and the stack of their masks, without masks below `minimum_area`.

    Empty masks are always left out. "background" is all that no mask covers; masks that are too
    small still count as covering. A picture without any mask has no data, and so no background
    either. Without labels the stack is [0, 1, 1].
    """
    if not masks:
        return [], torch.zeros(0, 1, 1, dtype=torch.bool)
    labels = list(masks)
    stack = torch.stack([torch.as_tensor(masks[label], dtype=torch.bool) for label in labels])
    if include_background and BACKGROUND not in masks:
        labels.append(BACKGROUND)
        stack = torch.cat([stack, ~stack.any(dim=0, keepdim=True)])
    area = stack.float().mean(dim=(1, 2))
    kept = (area > 0) & (area >= minimum_area)
    return [label for label, keep in zip(labels, kept.tolist(), strict=True) if keep], stack[kept]


class LabelOverlap:
    """IoU of every active latent's map with every label's mask in a picture (Emergence, section 4).

    `settings` say how a map is scaled, where it is cut, and on which of the two grids both are
    compared.
    """

    def __init__(self, settings: DictionarySettings) -> None:
        self._settings = settings

    def __call__(
        self,
        values: Float[Tensor, "n P k"],
        indices: Int[Tensor, "n P k"],
        masks: Sequence[Bool[Tensor, "labels H W"]],
        grid: tuple[int, int],
    ) -> tuple[Int[Tensor, " active"], Int[Tensor, " active"], Float[Tensor, "active most"]]:
        """The active latents of n pictures, as `activation_maps` lists them, and their IoU with
        each mask of their picture. A picture with fewer masks than another one has 0 beyond them.

        On a GPU, masks are brought there at once, and how many latents each picture has is read
        once.
        """
        pictures, latents, maps = activation_maps(values, indices, grid)
        maps = scale_maps(maps, self._settings.scaling)
        pixels = torch.cat([stack.flatten() for stack in masks]).to(values.device)
        counts = torch.bincount(pictures, minlength=len(masks)).tolist()
        iou = maps.new_zeros(len(latents), max(map(len, masks)))
        parts = zip(
            iou.split(counts), maps.split(counts), pixels.split([m.numel() for m in masks]), masks,
            strict=True,
        )  # fmt: skip
        for rows, own, flat, stack in parts:
            if len(own) and len(stack):
                rows[:, : len(stack)] = self._iou(own, flat.reshape(stack.shape), grid)
        return pictures, latents, iou

    def _iou(
        self,
        maps: Float[Tensor, "active h w"],
        masks: Bool[Tensor, "labels H W"],
        grid: tuple[int, int],
    ) -> Float[Tensor, "active labels"]:
        """Of one picture, as one matrix product, or some where its maps would take much memory."""
        size = (masks.shape[1], masks.shape[2])
        if self._settings.resize == "mask_to_grid":
            masks, size = masks_to_grid(masks, grid), grid
        flat, cut = masks.flatten(1), self._settings.activation_threshold
        parts = [
            iou_matrix((resize_maps(part, size) > cut).flatten(1), flat)
            for part in maps.split(max(1, _PIXELS_AT_ONCE // flat.shape[1]))
        ]
        return torch.cat(parts)
