"""Statistics of latents over pictures, without labels: how often they fire, and where most."""

from __future__ import annotations

from collections.abc import Sequence

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
        device: where sums are kept. A GPU may round them in another order.
    """

    def __init__(
        self,
        d_sae: int,
        grid: tuple[int, int],
        *,
        n_top: int = 20,
        device: torch.device | str = "cpu",
    ) -> None:
        self._d_sae, self._positions, self._n_top = d_sae, grid[0] * grid[1], n_top
        self._device = torch.device(device)
        self._image_ids: list[str] = []
        self._fired = self._zeros(d_sae, torch.long)
        self._pictures_active = self._zeros(d_sae, torch.long)
        self._sum = self._zeros(d_sae * self._positions)
        self._sum_of_squares = self._zeros(d_sae * self._positions)
        self._top_values = self._zeros(0, torch.float32).reshape(0, d_sae)
        self._top_pictures = self._zeros(0, torch.long).reshape(0, d_sae)
        self._recent_means: list[Float[Tensor, "n d_sae"]] = []

    def _zeros(self, size: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.zeros(size, dtype=dtype, device=self._device)

    @property
    def n_pictures(self) -> int:
        """Pictures added so far."""
        return len(self._image_ids)

    def add(
        self,
        image_ids: Sequence[str],
        values: Float[Tensor, "n P k"],
        indices: Int[Tensor, "n P k"],
    ) -> None:
        """Add the codes of n pictures."""
        for start in range(0, len(image_ids), _PICTURES_BETWEEN_MERGES):
            part = slice(start, start + _PICTURES_BETWEEN_MERGES)
            codes = (values[part].to(self._device), indices[part].to(self._device))
            self._add(image_ids[part], *codes)

    def _add(self, image_ids: Sequence[str], values: Tensor, indices: Tensor) -> None:
        pictures, positions, slots = torch.nonzero(values > 0, as_tuple=True)
        latents = indices[pictures, positions, slots].long()
        active = values[pictures, positions, slots].double()
        self._fired += torch.bincount(latents, minlength=self._d_sae)
        cells = latents * self._positions + positions
        self._sum.index_add_(0, cells, active)
        self._sum_of_squares.index_add_(0, cells, active.square())
        sums = self._zeros(len(image_ids) * self._d_sae)
        sums.index_add_(0, pictures * self._d_sae + latents, active)
        sums = sums.reshape(-1, self._d_sae)
        self._pictures_active += (sums > 0).sum(dim=0)
        self._recent_means.append((sums / self._positions).float())
        self._image_ids += image_ids
        if sum(map(len, self._recent_means)) >= _PICTURES_BETWEEN_MERGES:
            self._merge_top()

    def _merge_top(self) -> None:
        if not self._recent_means:
            return
        means = torch.cat(self._recent_means)
        numbers = torch.arange(self.n_pictures - len(means), self.n_pictures, device=self._device)
        values = torch.cat([self._top_values, means])
        pictures = torch.cat([self._top_pictures, numbers[:, None].expand(-1, self._d_sae)])
        # Stable: of equal means the earlier picture stays first.
        order = values.argsort(dim=0, descending=True, stable=True)[: self._n_top]
        self._top_values, self._top_pictures = values.gather(0, order), pictures.gather(0, order)
        self._recent_means.clear()

    def table(self) -> pd.DataFrame:
        """The table of the pictures so far, one row a latent, in the latents' order."""
        self._merge_top()
        n = max(self.n_pictures, 1)
        mean = (self._sum.cpu() / n).reshape(self._d_sae, self._positions)
        second_moment = (self._sum_of_squares.cpu() / n).reshape(self._d_sae, self._positions)
        map_variance = (second_moment - mean.square()).clamp_min(0).mean(dim=1)
        whole_variance = (second_moment.mean(dim=1) - mean.mean(dim=1).square()).clamp_min(0)
        # Law of total variance: the whole = between pictures (map_variance) + between positions.
        position_share = torch.where(
            whole_variance > 0, 1 - map_variance / whole_variance, torch.nan
        ).clamp(0, 1)
        top_values, top_pictures = self._top_values.cpu(), self._top_pictures.cpu()
        kept = top_values > 0
        return pd.DataFrame(
            {
                "latent": range(self._d_sae),
                "firing_frequency": (self._fired.cpu().double() / (n * self._positions)).numpy(),
                "pictures_active": self._pictures_active.cpu().numpy(),
                "mean_activation": mean.mean(dim=1).numpy(),
                "map_variance": map_variance.numpy(),
                "position_share": position_share.numpy(),
                "top_images": [
                    [self._image_ids[picture] for picture in pictures[keep].tolist()]
                    for pictures, keep in zip(top_pictures.T, kept.T, strict=True)
                ],
                "top_values": [
                    values[keep].tolist() for values, keep in zip(top_values.T, kept.T, strict=True)
                ],
            }
        )
