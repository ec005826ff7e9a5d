"""Settings of the concept dictionary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from diffusae.settings import Settings, Within

MapScaling = Literal["max", "minmax"]
MapResize = Literal["map_to_mask", "mask_to_grid"]
BelowOne = Within(0, 1 - 1e-9)


@dataclass(frozen=True, kw_only=True)
class DictionarySettings(Settings, part="dictionary"):
    """The dictionary of a cell (`conf/dictionary`); `build_dictionary` says what they mean."""

    activation_threshold: Annotated[float, BelowOne]
    iou_threshold: Annotated[float, BelowOne]
    scaling: MapScaling
    resize: MapResize
    min_count: Annotated[int, Within(1, 10**9)]
    minimum_area: Annotated[float, BelowOne]
    include_background: bool
    gallery_latents: Annotated[int, Within(0, 10**6)]
    """Latents that the report shows."""
