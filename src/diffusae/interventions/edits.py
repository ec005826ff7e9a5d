"""Edits of a block's updates (Emergence, section 6).

A *change* is a function of the updates [pictures, P, d_in] in data units; its result is added to
them. It edits the update itself, so that the autoencoder's reconstruction error never enters the
picture. (`Reconstruct` is the exception: it measures that error.) An `Edit` says where and when a
change acts.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, Self, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from diffusae.backbone.blocks import Grid
from diffusae.errors import UserError, refuse_text, together, unknown
from diffusae.interventions.regions import Region
from diffusae.sae.autoencoder import SparseAutoencoder

Updates = Float[Tensor, "pictures P d_in"]
Change = Callable[[Updates, Grid], Updates]
"""change(updates, grid) -> what to add to them."""

Outside = Literal["subtract", "subtract_once", "keep"]
Over = Literal["mean", "sum"]
ROUNDING = 1e-9


@dataclass(frozen=True)
class Edit:
    """One change of one block's updates, or of the vectors of another site of a block.

    Attributes:
        hookpoint: its name, which is the block's module path, with a site and a stream where they
            are others (`backbone.sites`); or the block's place in the list of blocks.
        change: gives what is added.
        window: (first, last) t at which it acts, both included, 1 = first reverse step; (0.6, 0.2)
            is the paper's middle window. Consecutive windows should not share an end.
        conditionings: the guidance branches that are edited.
        preserve_norm: scale every edited vector back to its old length.
        watches: whether the change only looks at the updates, for another edit.

    Raises:
        UserError: a window out of [0, 1] or in the wrong order, no conditioning.
    """

    hookpoint: str | int
    change: Change
    window: tuple[float, float] = (1.0, 0.0)
    conditionings: tuple[str, ...] = ("cond",)
    preserve_norm: bool = False
    watches: bool = False

    def __post_init__(self) -> None:
        refuse_text("conditionings", self.conditionings)
        first, last = self.window
        faults = []
        if not 0 <= last <= first <= 1:
            faults.append(
                f"window=({first}, {last}) must fall from its first t to its last within [0, 1]; 1"
                " is the first step"
            )
        if not self.conditionings:
            faults.append("conditionings is empty; edit cond, uncond or both")
        together(faults)

    def acts_at(self, t: float) -> bool:
        """Whether t is in the window, up to the rounding of t = 1 - i / (N - 1)."""
        return self.window[1] - ROUNDING <= t <= self.window[0] + ROUNDING

    def __call__(self, updates: Updates, grid: Grid) -> Updates:
        """The edited updates, in their own dtype."""
        given = updates.float()
        edited = given + self.change(given, grid)
        if self.preserve_norm:
            lengths = [vectors.norm(dim=-1, keepdim=True) for vectors in (given, edited)]
            edited = edited * torch.where(lengths[1] > 0, lengths[0] / lengths[1], 1.0)
        return edited.to(updates.dtype)


def code_norms(
    sae: SparseAutoencoder, updates: Updates, gain: float | None = None
) -> Float[Tensor, "pictures P"]:
    """|Z_ij|: the length of every position's code, in data units.

    *Open* in the paper, which does not say which norm. Concept vectors have unit length and are
    nearly orthogonal, so this norm is close to the length of the update minus the bias: a strength
    of 1 about doubles the update.
    """
    return sae.code_norms(updates, gain)


def concept_direction(
    sae: SparseAutoencoder, latents: Sequence[int], *, unit_length: bool = True
) -> Float[Tensor, " d_in"]:
    """sum_c f_c over these latents, whose concept vectors f_c have unit length.

    Args:
        unit_length: scale the sum to unit length, so that strengths do not depend on the number of
            latents. False: the sum as it is, as in the paper. For m nearly orthogonal concepts it
            is sqrt(m) long, and the paper's strength is ours divided by that for the same edit.

    Raises:
        UserError: no latents, or latents that the SAE lacks.
    """
    total = sae.directions_of(_checked(sae, latents)).detach().sum(dim=0)
    return F.normalize(total, dim=0) if unit_length else total


class ByLength(ABC):
    """A change along a direction, of sizes that follow |Z_ij|, the lengths of an autoencoder's
    codes.

    What it needs is brought to the updates' device in its first call and stays there. The
    autoencoder must not be trained any more.
    """

    sae: SparseAutoencoder
    direction: Float[Tensor, " d_in"] | Float[Tensor, "pictures 1 d_in"]
    strength: float | Float[Tensor, "pictures 1"]
    gain: float | None = None

    def __call__(self, updates: Updates, grid: Grid) -> Updates:
        return self.sized(self.norms(updates), updates, grid)

    def norms(self, updates: Updates) -> Float[Tensor, "pictures P"]:
        """|Z_ij|."""
        if self.gain is None:
            self.gain = self.sae.common_gain()
        return code_norms(self.sae, updates, self.gain)

    def sized(self, norms: Float[Tensor, "pictures P"], updates: Updates, grid: Grid) -> Updates:
        """The change for known |Z_ij|."""
        self.direction = self.direction.to(updates.device)
        return self.sizes(norms, updates, grid)[..., None] * self.direction

    @abstractmethod
    def sizes(
        self, norms: Float[Tensor, "pictures P"], updates: Updates, grid: Grid
    ) -> Float[Tensor, "pictures P"]:
        """How far every position goes along the direction."""

    @property
    def kind(self) -> Hashable:
        """What changes must have in common to be `together`."""
        return type(self), self.sae

    @classmethod
    def together(cls, changes: Sequence[Self], device: torch.device) -> Self:
        """Changes of one kind as one change, of as many pictures."""
        joined, strengths = copy.copy(changes[0]), [change.strength for change in changes]
        joined.direction = torch.stack([change.direction for change in changes])[:, None].to(device)
        joined.strength = joined.direction.new_tensor(strengths)[:, None]
        return joined


class PerPicture:
    """A change of its own for every picture of a batch; None leaves the picture alone.

    Changes of one kind are carried out together. On a CPU the codes of every picture are measured
    alone, so that no bit of it depends on the others.
    """

    def __init__(self, changes: Sequence[Change | None]) -> None:
        self.changes = list(changes)
        self._prepared: dict[torch.device, list[tuple[Tensor, Change]]] = {}

    def __call__(self, updates: Updates, grid: Grid) -> Updates:
        if len(updates) != len(self.changes):
            raise UserError(
                f"{len(updates)} pictures need as many changes, got {len(self.changes)}"
            )
        if updates.device not in self._prepared:
            self._prepared[updates.device] = self._groups(updates.device)
        added = torch.zeros_like(updates)
        for rows, change in self._prepared[updates.device]:
            chosen = updates[rows]
            if isinstance(change, ByLength) and updates.device.type == "cpu":
                norms = torch.cat([change.norms(one) for one in chosen.split(1)])
                added[rows] = change.sized(norms, chosen, grid)
            else:
                added[rows] = change(chosen, grid)
        return added

    def _groups(self, device: torch.device) -> list[tuple[Tensor, Change]]:
        """Changes, with the places of the pictures that they serve."""
        groups: list[tuple[Tensor, Change]] = []
        of_kind: dict[Hashable, dict[int, ByLength]] = {}
        for place, change in enumerate(self.changes):
            if isinstance(change, ByLength):
                of_kind.setdefault(change.kind, {})[place] = change
            elif change is not None:
                groups.append((torch.tensor([place], device=device), change))
        for group in of_kind.values():
            first, *_ = changes = list(group.values())
            groups.append(
                (torch.tensor(list(group), device=device), first.together(changes, device))
            )
        return groups


class SpatialMove(ByLength):
    """Adds a direction inside a region and subtracts it outside (Emergence, section 6.1).

    Inside: delta_ij + beta |Z_ij| f. Outside, one of three:

    - "subtract_once", the paper's equation: delta_ij - f, with f in data units and without beta;
    - "subtract", ours: delta_ij - beta |Z_ij| f, as much as is added inside;
    - "keep": delta_ij. To remove the concept's own codes there, combine it with `SetLatents`.

    A position that lies partly inside gets its share of both. With a `source`, the outside is what
    lies in the source and not in the region: an object goes from one to the other, and the rest of
    the picture is left alone.

    Example: f = (0, 1), beta = 2, a row of two positions with |Z| = 3 and 5, and the region "left".
    The first position gets (0, 6). The second gets (0, -1) by "subtract_once", (0, -10) by
    "subtract" and nothing by "keep".

    Args:
        sae: of the block and branch, trained at the window's t; gives |Z_ij|.
        direction: f, [d_in], such as `concept_direction` of the object's latents, or a control.
        region: the place for the object.
        strength: beta, in lengths of the position's code.
        outside: "subtract", "subtract_once" or "keep".
        source: where the object is now; None: `outside` holds everywhere outside the region.

    Raises:
        UserError: a strength that is not above 0, an unknown `outside`, a source of which nothing
            is subtracted.
    """

    def __init__(
        self,
        sae: SparseAutoencoder,
        direction: Float[Tensor, " d_in"],
        region: Region,
        *,
        strength: float,
        outside: Outside = "subtract",
        source: Region | None = None,
    ) -> None:
        if not strength > 0:
            raise UserError(f"strength={strength} must be above 0; raise intervention.strength")
        if outside not in get_args(Outside):
            raise unknown("outside", outside, get_args(Outside))
        if source is not None and outside == "keep":
            raise UserError(
                "outside=keep subtracts nothing, also in a source; leave one of them out"
            )
        self.sae, self.direction, self.strength = sae, direction.detach(), strength
        self._regions: list[tuple[Region, Outside, Region | None]] = [(region, outside, source)]
        self._shares: dict[tuple[Grid, torch.device], tuple[Tensor, Tensor]] = {}

    def sizes(
        self, norms: Float[Tensor, "pictures P"], updates: Updates, grid: Grid
    ) -> Float[Tensor, "pictures P"]:
        """beta |Z_ij| inside; outside, what `outside` says."""
        place = grid, updates.device
        if place not in self._shares:
            shares = [
                (
                    x := region.shares(grid),
                    (1 - x) * (1 if of is None else of.shares(grid)),
                    outside,
                )
                for region, outside, of in self._regions
            ]
            by_length = [x - y if outside == "subtract" else x for x, y, outside in shares]
            once = [y * (outside == "subtract_once") for _, y, outside in shares]
            self._shares[place] = (
                torch.stack(by_length).to(updates.device),
                torch.stack(once).to(updates.device),
            )
        by_length, once = self._shares[place]
        return by_length * (self.strength * norms) - once

    @classmethod
    def together(cls, changes: Sequence[Self], device: torch.device) -> Self:
        """Changes of one kind as one change, of as many pictures."""
        joined = super().together(changes, device)
        joined._regions = [region for change in changes for region in change._regions]
        joined._shares = {}
        return joined


class InRegion:
    """Another change, inside a region alone.

    A position that lies partly inside gets its share of the change.
    """

    def __init__(self, change: Change, region: Region) -> None:
        self.change, self.region = change, region

    def __call__(self, updates: Updates, grid: Grid) -> Updates:
        shares = self.region.shares(grid).to(updates.device)
        return shares[:, None] * self.change(updates, grid)


class GlobalPush(ByLength):
    """Adds a direction everywhere, more where codes are longer (Emergence, section 6.2).

    delta_ij + beta~_ij f with beta~_ij = beta u |Z_ij| / total |Z|. The paper's: `relative` False,
    so that u = 1, and the sum over all P positions as the total. Ours: u is the length of the
    picture's mean update, and the total is the mean over positions, so that a strength depends on
    neither the data nor the grid. For the same edit the paper's beta is P u times ours.

    Args:
        sae: gives |Z_ij|.
        direction: f, [d_in], such as the sum of concept vectors, or a control.
        strength: beta, in lengths of the picture's mean update where `relative`, else data units.
        over: the total: the "mean" or the "sum" over positions.

    Raises:
        UserError: a strength that is not above 0, an unknown `over`.
    """

    def __init__(
        self,
        sae: SparseAutoencoder,
        direction: Float[Tensor, " d_in"],
        *,
        strength: float,
        relative: bool = True,
        over: Over = "mean",
    ) -> None:
        if not strength > 0:
            raise UserError(f"strength={strength} must be above 0; raise intervention.strength")
        if over not in get_args(Over):
            raise unknown("over", over, get_args(Over))
        self.sae, self.direction = sae, direction.detach()
        self.strength, self.relative, self.over = strength, relative, over

    @property
    def kind(self) -> Hashable:
        """What changes must have in common to be `together`."""
        return super().kind, self.relative, self.over

    def sizes(
        self, norms: Float[Tensor, "pictures P"], updates: Updates, grid: Grid
    ) -> Float[Tensor, "pictures P"]:
        """beta~_ij."""
        total = (norms.mean if self.over == "mean" else norms.sum)(dim=1, keepdim=True)
        shares = norms / total.clamp_min(torch.finfo(norms.dtype).tiny)
        size = torch.ones_like(shares[:, :1])
        if self.relative:
            size = updates.norm(dim=-1).mean(dim=1)[:, None]
        return self.strength * size * shares


class SetLatents:
    """Changes the codes of chosen latents: x + sum_c (z'_c - z_c) f_c.

    Args:
        latents: the latents c.
        factor: z' = factor * z; 0 ablates, 2 doubles.
        clamp: z' = clamp wherever the latent is active; data units. Give either this or `factor`.

    Raises:
        UserError: both or none of `factor` and `clamp`, a negative clamp, latents the SAE lacks.
    """

    def __init__(
        self,
        sae: SparseAutoencoder,
        latents: Sequence[int],
        *,
        factor: float | None = None,
        clamp: float | None = None,
    ) -> None:
        self.latents = _checked(sae, latents)
        if (factor is None) == (clamp is None):
            raise UserError(
                "a latent is either multiplied or clamped; give factor or clamp, not both"
            )
        if clamp is not None and clamp < 0:
            raise UserError(f"clamp={clamp} must not be below 0: codes never are; raise it")
        self.sae, self.factor, self.clamp = sae, factor, clamp

    def __call__(self, updates: Updates, grid: Grid) -> Updates:
        self.latents = self.latents.to(updates.device)
        z = own_codes(self.sae, self.latents, updates)
        wanted = (z > 0) * self.clamp if self.clamp is not None else z * (self.factor or 0.0)
        return (wanted - z) @ self.sae.directions_of(self.latents).detach()


class Reconstruct:
    """Replaces the update by the SAE's reconstruction: adds x_hat - x.

    Args:
        with_error: replace it by x_hat + (x - x_hat): a control that must change nothing but
            rounding.
    """

    def __init__(self, sae: SparseAutoencoder, *, with_error: bool = False) -> None:
        self.sae, self.with_error = sae, with_error

    @torch.no_grad()
    def __call__(self, updates: Updates, grid: Grid) -> Updates:
        x_hat = self.sae(updates)
        return (x_hat + (updates - x_hat) if self.with_error else x_hat) - updates


class Transcode:
    """Replaces a stream, such as the output of an MLP, by what a transcoder makes of its input.

    Two edits belong together: `watch` at the stream that is read, in an edit that watches, and the
    change itself at the stream that is written, which must run later in the same pass.

    Args:
        with_error: as in `Reconstruct`.

    Raises:
        UserError: nothing was read before.
    """

    def __init__(self, sae: SparseAutoencoder, *, with_error: bool = False) -> None:
        self.sae, self.with_error = sae, with_error
        self._read: Tensor | None = None

    def watch(self, updates: Updates, grid: Grid) -> Updates:
        """Take the stream that is read; it stays as it is."""
        self._read = updates
        return torch.zeros_like(updates)

    @torch.no_grad()
    def __call__(self, updates: Updates, grid: Grid) -> Updates:
        read, self._read = self._read, None
        if read is None or len(read) != len(updates):
            raise UserError(
                "a transcoder's input must run before its target in every pass; choose another"
                " sae.target"
            )
        y_hat = self.sae(read)
        return (y_hat + (updates - y_hat) if self.with_error else y_hat) - updates


class ReplaceBy:
    """Replaces the update of every picture by one update, such as a mean: ablation.

    Args:
        update: [P, d_in], row-major over the block's grid, or [d_in] for all positions alike.
    """

    def __init__(self, update: Float[Tensor, "... d_in"]) -> None:
        self.update = update.detach()

    def __call__(self, updates: Updates, grid: Grid) -> Updates:
        if self.update.ndim == 2 and len(self.update) != updates.shape[1]:
            raise UserError(
                f"an update of {len(self.update)} positions cannot stand in for {updates.shape[1]};"
                " record it at this size"
            )
        self.update = self.update.to(updates)  # it stays there
        return self.update - updates


def own_codes(
    sae: SparseAutoencoder, latents: Int[Tensor, " m"], updates: Updates
) -> Float[Tensor, "pictures P m"]:
    """The codes of some latents, 0 where they are not active; data units.

    Example: of the codes .5 of latent 7 and .2 of latent 3, the latents 3 and 4 have .2 and 0.
    """
    values, indices = sae.encode(updates)
    others = len(latents)  # the place of all other latents, which is cut off
    places = indices.new_full((sae.d_sae,), others)
    places[latents] = torch.arange(others, device=places.device)
    z = values.new_zeros(*values.shape[:-1], others + 1)
    return z.scatter_(-1, places[indices], values)[..., places[latents]]


def _checked(sae: SparseAutoencoder, latents: Sequence[int]) -> Int[Tensor, " m"]:
    sae.require_one_stream()
    if not len(latents):
        raise UserError(
            "an edit needs a latent; the concept has none in this cell's dictionary, choose another"
        )
    strange = [latent for latent in latents if not 0 <= latent < sae.d_sae]
    if strange:
        raise UserError(f"latent {strange[0]} does not exist; the SAE has 0 to {sae.d_sae - 1}")
    return torch.as_tensor(list(latents), dtype=torch.long)
