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
    """The dictionary of a cell (`conf/dictionary`). What the paper leaves open is marked *open*."""

    activation_threshold: Annotated[float, BelowOne]
    """A scaled map is active above it; 0.1 in the paper."""
    iou_threshold: Annotated[float, BelowOne]
    """A latent gains a label above it; 0.5 in the paper."""
    scaling: MapScaling
    """See `maps.scale_maps` (*open*)."""
    resize: MapResize
    """"map_to_mask": scaled maps are interpolated to the size of the masks, then cut;
    "mask_to_grid": masks are averaged to the grid, and maps cut on it (*open*).
    """
    min_count: Annotated[int, Within(1, 10**9)]
    """A latent keeps a label that it gained in at least this many pictures (*open*)."""
    minimum_area: Annotated[float, BelowOne]
    """Masks smaller than this share of the picture are left out (*open*)."""
    include_background: bool
    """Whether what no mask covers has the label "background". (The paper's tagger names skies and
    grass.)
    """
    gallery_latents: Annotated[int, Within(0, 10**6)]
    """Latents that the report shows."""
