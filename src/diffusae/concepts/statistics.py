"""Statistics of latents over pictures, without labels: how often they fire, and where most."""

from __future__ import annotations

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

_PICTURES_BETWEEN_MERGES = 256


class LatentStatistics:
    """Streaming statistics of all latents of one cell.

    `table()` has one row a latent:

    - `latent`: its index;
    - `firing_frequency`: share of positions, over all pictures, where it is active; range [0, 1];
    - `pictures_active`: pictures with at least one active position;
    - `mean_activation`: mean over pictures of the spatial mean of its map (data units);
    - `map_variance`: variance over pictures of the map, averaged over positions (paper: low =
      context-free);
    - `position_share`: the share of the map's whole variance that lies between positions, not
      pictures; range [0, 1], 1 = the same map in every picture. Unlike `map_variance` it compares
      latents of different strength. NaN for a map that never varies, such as that of a latent that
      never fires;
    - `top_images`, `top_values`: the pictures with the highest spatial means (the paper's ranking)
      and those means, descending, only where above 0.

    Args:
        d_sae: latents.
        grid: (h, w) of the maps.
        n_top: pictures kept for each latent.
    """

    def __init__(self, d_sae: int, grid: tuple[int, int], *, n_top: int = 20) -> None:
        self._d_sae, self._positions, self._n_top = d_sae, grid[0] * grid[1], n_top
        self._image_ids: list[str] = []
        self._fired = torch.zeros(d_sae, dtype=torch.long)
        self._pictures_active = torch.zeros(d_sae, dtype=torch.long)
        self._sum = torch.zeros(d_sae * self._positions, dtype=torch.float64)
        self._sum_of_squares = torch.zeros(d_sae * self._positions, dtype=torch.float64)
        self._top_values = torch.zeros(0, d_sae)
        self._top_pictures = torch.zeros(0, d_sae, dtype=torch.long)
        self._recent_means: list[Float[Tensor, " d_sae"]] = []

    @property
    def n_pictures(self) -> int:
        """Pictures added so far."""
        return len(self._image_ids)

    def add(self, image_id: str, values: Float[Tensor, "P k"], indices: Int[Tensor, "P k"]) -> None:
        """Add one picture's codes."""
        positions, slots = torch.nonzero(values > 0, as_tuple=True)
        latents, active = indices[positions, slots].long(), values[positions, slots].double()
        counts = torch.bincount(latents, minlength=self._d_sae)
        self._fired += counts
        self._pictures_active += counts > 0
        cells = latents * self._positions + positions
        self._sum.index_add_(0, cells, active)
        self._sum_of_squares.index_add_(0, cells, active.square())
        sums = torch.zeros(self._d_sae, dtype=torch.float64).index_add_(0, latents, active)
        self._recent_means.append((sums / self._positions).float())
        self._image_ids.append(image_id)
        if len(self._recent_means) == _PICTURES_BETWEEN_MERGES:
            self._merge_top()

    def _merge_top(self) -> None:
        if not self._recent_means:
            return
        first = len(self._image_ids) - len(self._recent_means)
        recent = torch.arange(first, len(self._image_ids))[:, None].expand(-1, self._d_sae)
        values = torch.cat([self._top_values, torch.stack(self._recent_means)])
        pictures = torch.cat([self._top_pictures, recent])
        # Stable: of equal means the earlier picture stays first.
        order = values.argsort(dim=0, descending=True, stable=True)[: self._n_top]
        self._top_values, self._top_pictures = values.gather(0, order), pictures.gather(0, order)
        self._recent_means.clear()

    def table(self) -> pd.DataFrame:
        """The table of the pictures so far, one row a latent, in the latents' order."""
        self._merge_top()
        n = max(self.n_pictures, 1)
        mean = (self._sum / n).reshape(self._d_sae, self._positions)
        second_moment = (self._sum_of_squares / n).reshape(self._d_sae, self._positions)
        map_variance = (second_moment - mean.square()).clamp_min(0).mean(dim=1)
        whole_variance = (second_moment.mean(dim=1) - mean.mean(dim=1).square()).clamp_min(0)
        # Law of total variance: the whole = between pictures (map_variance) + between positions.
        position_share = torch.where(
            whole_variance > 0, 1 - map_variance / whole_variance, torch.nan
        ).clamp(0, 1)
        kept = self._top_values > 0
        return pd.DataFrame(
            {
                "latent": range(self._d_sae),
                "firing_frequency": (self._fired.double() / (n * self._positions)).numpy(),
                "pictures_active": self._pictures_active.numpy(),
                "mean_activation": mean.mean(dim=1).numpy(),
                "map_variance": map_variance.numpy(),
                "position_share": position_share.numpy(),
                "top_images": [
                    [self._image_ids[picture] for picture in pictures[keep].tolist()]
                    for pictures, keep in zip(self._top_pictures.T, kept.T, strict=True)
                ],
                "top_values": [
                    values[keep].tolist()
                    for values, keep in zip(self._top_values.T, kept.T, strict=True)
                ],
            }
        )
