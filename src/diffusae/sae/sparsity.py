"""Which latents are active: a sparsity turns pre-activations into codes.

There are two kinds. A *choosing* sparsity (`TopK`, `BatchTopK`, `MatryoshkaTopK`) picks the largest
pre-activations, so that training costs what the chosen ones cost. A *penalised* one (`JumpReLU`,
`ReLU`) is dense in training, and a term of the loss makes it sparse. A new sparsity is a class
beside these, and an entry of `SPARSITIES`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffusae import plugins
from diffusae.errors import together, unknown
from diffusae.parsing import call_typed
from diffusae.sae.across_processes import anywhere, largest_of_all, least_of_all, world_size
from diffusae.sae.largest import largest, largest_values
from diffusae.sae.sparse_ops import Entries, Kernels
from diffusae.sae.sparsity_checks import (
    batch_top_k_faults,
    jump_relu_faults,
    matryoshka_faults,
    relu_faults,
    top_k_faults,
)

if TYPE_CHECKING:
    from diffusae.sae.autoencoder import ScaledPass, SparseAutoencoder

SPARE = 4
"""Candidates a row beyond k. Of the 20 largest of 5120 Gaussian pre-activations, those sought in
bfloat16 (relative error .003) then miss none in 20,000, those sought in int8 (.011) two in 10,000;
without spare ones, 1 % and 2 %.
"""


class Codes(NamedTuple):
    """Sparse codes. An entry is active where its value is above 0; other entries mean nothing."""

    values: Float[Tensor, "... k"]
    indices: Int[Tensor, "... k"]


def narrowest(dense: Float[Tensor, "... d_sae"]) -> Codes:
    """Dense codes as sparse ones, with as many entries a row as the row with the most active
    latents (at least 1).
    """
    width = max(1, int((dense > 0).sum(dim=-1).max())) if dense.numel() else 1
    return Codes(*torch.topk(dense, width, dim=-1, sorted=False))


class Sparsity(nn.Module, ABC):
    """Called with pre-activations [..., d_sae] it gives their codes: values not below 0, in no
    particular order.
    """

    name: ClassVar[str]
    by_row: ClassVar[bool] = True
    """Whether the codes of a row depend on that row alone, in training too."""
    compares: ClassVar[bool] = False
    """Whether a latent's code in use depends on the pre-activations of the others."""

    @abstractmethod
    def forward(self, pre_activations: Float[Tensor, "... d_sae"]) -> Codes:
        """The codes; how they are chosen may differ between training and use (`self.training`)."""

    def values(self, pre_activations: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... n"]:
        """The values of the codes, without their latents."""
        return self(pre_activations).values

    @abstractmethod
    def scaled_pass(
        self, autoencoder: SparseAutoencoder, x: Float[Tensor, "batch d_in"]
    ) -> ScaledPass:
        """One pass of training: the way through the autoencoder that costs least."""

    def total(self, part: Tensor) -> Tensor:
        """A sum over all latents from `part`, that of the latents here. They are all of them,
        unless they are shards (`diffusae.sae.sharded`).
        """
        return part

    def of_all(self, codes: Codes) -> Codes:
        """The codes over all latents from those over the latents here."""
        return codes

    @abstractmethod
    def check(self, d_sae: int) -> None:
        """Raise `UserError` where this sparsity cannot serve `d_sae` latents."""

    def project(self) -> None:
        """Bring learnt values back into their range; called after every step."""

    def in_use(self, factors: Float[Tensor, " d_sae"]) -> Sparsity:
        """What this sparsity does outside training, as `TopK`, `ReLU` or `JumpReLU` where one of
        them does the same, for pre-activations times `factors` (above 0).
        """
        return self

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON values."""


class TopK(Sparsity):
    """ReLU, then the k largest of every row (Emergence, section 3: z = TopK(ReLU(.))).

    A row has at most k active latents: fewer when fewer pre-activations are above 0. Which one of
    several equal pre-activations is kept is unspecified but the same at every call with the same
    input, device and thread count.
    """

    name = "topk"
    compares = True
    fills_rows: ClassVar[bool] = True
    """Whether nearly all entries of the codes of a batch are active. Otherwise rows have few active
    ones or many, and only these are computed with.
    """
    prefixes: tuple[int, ...] = ()
    """Lengths of the prefixes of latents that must reconstruct by themselves, rising."""

    def __init__(self, k: int) -> None:
        super().__init__()
        together(top_k_faults(k=k))
        self.k = k

    def forward(self, pre_activations: Float[Tensor, "... d_sae"]) -> Codes:
        # ReLU keeps the order, so it can wait until only k values are left.
        values, indices = largest(pre_activations, self.k)
        return Codes(values.relu(), indices)

    def values(self, pre_activations: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... k"]:
        return largest_values(pre_activations, self.k).relu()

    def candidates(
        self, pre_activations: Float[Tensor, "... d_sae"], *, spare: int = SPARE
    ) -> Codes:
        """The latents that may be active, by pre-activations in few bits: k + `spare` a row."""
        return Codes(*largest(pre_activations, min(self.k + spare, pre_activations.shape[-1])))

    def choose(self, candidates: Codes) -> Codes:
        """The codes by the candidates' pre-activations in full precision."""
        values, chosen = torch.topk(candidates.values, self.k, dim=-1, sorted=False)
        return Codes(values.relu(), candidates.indices.gather(-1, chosen))

    def here(self) -> TopK:
        """What chooses among the latents here, before `winners` does among all."""
        return self

    def winners(self, codes: Codes) -> Codes:
        """The codes that are chosen among all latents, of those that are chosen here."""
        return codes

    def entries(
        self, codes: Codes, *, d_sae: int, kernels: Kernels
    ) -> tuple[Entries, Float[Tensor, " n"]]:
        """Codes of a batch as entries of a sparse matrix, with their values."""
        if self.fills_rows:
            every = Entries.every(codes.indices, d_sae=d_sae, kernels=kernels)
            return every, codes.values.flatten()
        active = codes.values > 0
        entries = Entries.where(active, codes.indices, d_sae=d_sae, kernels=kernels)
        return entries, codes.values[active]

    def revalued(self, codes: Codes, values: Float[Tensor, " n"]) -> Codes:
        """The same codes with other values, given in the order of `entries`."""
        return Codes(values.view(codes.values.shape), codes.indices)

    def dense(self, pre_activations: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        """The codes of a batch as a dense matrix: 0 where a latent is not chosen."""
        codes = self(pre_activations)
        return torch.zeros_like(pre_activations).scatter_(1, codes.indices, codes.values)

    def scaled_pass(
        self, autoencoder: SparseAutoencoder, x: Float[Tensor, "batch d_in"]
    ) -> ScaledPass:
        if autoencoder.dense and self.training:
            return autoencoder.dense_pass(x, self)
        return autoencoder.chosen_pass(x, self)

    def check(self, d_sae: int) -> None:
        together(top_k_faults(k=self.k, latents=d_sae))

    def in_use(self, factors: Float[Tensor, " d_sae"]) -> Sparsity:
        return TopK(self.k)

    def config(self) -> dict[str, Any]:
        return {"k": self.k}


class MatryoshkaTopK(TopK):
    """TopK whose first latents must reconstruct without the later ones (Bussmann et al. 2025,
    Matryoshka SAEs).

    The loss is the mean reconstruction error over the prefixes of latents, of the lengths
    `prefixes` and d_sae. The codes are TopK's.
    """

    name = "matryoshka"

    def __init__(self, k: int, *, prefixes: Sequence[int]) -> None:
        super().__init__(k)
        self.prefixes = tuple(prefixes)
        together(matryoshka_faults(k=k, prefixes=self.prefixes))

    def check(self, d_sae: int) -> None:
        together(matryoshka_faults(k=self.k, prefixes=self.prefixes, latents=d_sae))

    def config(self) -> dict[str, Any]:
        return {"k": self.k, "prefixes": list(self.prefixes)}


class BatchTopK(TopK):
    """The k * rows largest of a whole batch, so that rows share the budget (Bussmann et al. 2024).
    Processes that train together share one budget as well.

    In use a row must not depend on the others. There a latent is active above one `threshold`: the
    running mean, over training batches, of the smallest value that was kept.

    Args:
        k: active latents a row, on average over a batch.
        threshold_rate: the weight of a batch in the running mean, in (0, 1].
    """

    name = "batchtopk"
    by_row = False
    compares = False
    fills_rows = False
    threshold: Tensor
    batches: Tensor

    def __init__(self, k: int, *, threshold_rate: float = 0.01) -> None:
        super().__init__(k)
        together(batch_top_k_faults(k=k, threshold_rate=threshold_rate))
        self.threshold_rate = threshold_rate
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def forward(self, pre_activations: Float[Tensor, "... d_sae"]) -> Codes:
        if not self.training:
            active = pre_activations > self.threshold
            return narrowest(torch.where(active, pre_activations, 0).relu())
        codes = self._largest_of_batch(pre_activations.flatten(0, -2), self.k)
        self._follow(codes.values)
        shape = (*pre_activations.shape[:-1], codes.values.shape[1])
        return Codes(codes.values.reshape(shape), codes.indices.reshape(shape))

    def candidates(
        self, pre_activations: Float[Tensor, "rows d_sae"], *, spare: int = SPARE
    ) -> Codes:
        return self._largest_of_batch(
            pre_activations, min(self.k + spare, pre_activations.shape[1])
        )

    def choose(self, candidates: Codes) -> Codes:
        kept, _ = largest_of_all(candidates.values.flatten(), self.k * len(candidates.values))
        values = _only(kept, candidates.values)
        self._follow(values)
        return Codes(values, candidates.indices)

    def values(self, pre_activations: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... n"]:
        return self(pre_activations).values  # not the k largest of every row

    def dense(self, pre_activations: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        if world_size() > 1:
            return super().dense(pre_activations)
        # Widening rows until nothing is missed would wait for a GPU; one long row does not.
        row = pre_activations.flatten()
        values, places = torch.topk(row, self.k * len(pre_activations), sorted=False)
        values = values.relu()
        self._follow(values)
        return torch.zeros_like(row).scatter_(0, places, values).view_as(pre_activations)

    def revalued(self, codes: Codes, values: Float[Tensor, " n"]) -> Codes:
        zeros = values.new_zeros(codes.values.shape)
        return Codes(zeros.masked_scatter_(codes.values > 0, values), codes.indices)

    def _largest_of_batch(self, pre_activations: Float[Tensor, "rows d_sae"], k: int) -> Codes:
        """The k * rows largest, exactly. Only the `width` largest of every row are looked at; where
        one of the others might belong to them, the width is doubled.
        """
        d_sae = pre_activations.shape[1]
        width = min(4 * k, d_sae)
        while True:
            values, indices = largest(pre_activations, width)
            kept, least = largest_of_all(values.flatten(), k * len(values))
            # Below 0 nothing is active, so nothing is missed.
            if width == d_sae or not anywhere((values.amin(dim=1) > least.clamp_min(0)).any()):
                break
            width = min(2 * width, d_sae)
        return Codes(_only(kept, values), indices)

    @torch.no_grad()
    def _follow(self, values: Tensor) -> None:
        if values.numel() == 0:  # a process without a part of a short last batch
            values = values.new_zeros(1)
        least = least_of_all(values.masked_fill(~(values > 0), torch.inf).min().float())
        some = torch.isfinite(least)
        # The first batch counts whole, or the start at 0 would be remembered.
        rate = (self.batches == 0).to(self.threshold).clamp(min=self.threshold_rate)
        followed = self.threshold.lerp(least.to(self.threshold), rate)
        self.threshold.copy_(torch.where(some, followed, self.threshold))
        self.batches += some

    def in_use(self, factors: Float[Tensor, " d_sae"]) -> Sparsity:
        return JumpReLU.with_thresholds(factors * self.threshold.detach().cpu())

    def config(self) -> dict[str, Any]:
        return {"k": self.k, "threshold_rate": self.threshold_rate}


def _only(kept: Int[Tensor, " kept"], values: Float[Tensor, "rows n"]) -> Float[Tensor, "rows n"]:
    """The values with 0 in the place of those below 0 and of all but the `kept` ones, which are
    places in the flattened values.
    """
    dense = torch.zeros_like(values).flatten()
    dense[kept] = values.flatten()[kept].relu()
    return dense.view(values.shape)


class Penalised(Sparsity):
    """A sparsity that a term of the loss brings about."""

    @abstractmethod
    def activate(
        self, pre_activations: Float[Tensor, "batch d_sae"]
    ) -> Float[Tensor, "batch d_sae"]:
        """Dense codes, differentiable."""

    @abstractmethod
    def penalty(
        self,
        pre_activations: Float[Tensor, "batch d_sae"],
        z: Float[Tensor, "batch d_sae"],
        norm: float,
    ) -> Float[Tensor, ""]:
        """The loss's term, without unit; `norm` is about the norm of a scaled vector, the root of
        d_in.
        """

    def forward(self, pre_activations: Float[Tensor, "... d_sae"]) -> Codes:
        return narrowest(self.activate(pre_activations))

    def scaled_pass(
        self, autoencoder: SparseAutoencoder, x: Float[Tensor, "batch d_in"]
    ) -> ScaledPass:
        return autoencoder.dense_pass(x, self)

    def check(self, d_sae: int) -> None:
        pass


class ReLU(Penalised):
    """ReLU with an L1 penalty on the codes: the classical baseline (Bricken et al. 2023).

    The penalty is `l1` * mean over the batch of sum_i z_i / norm; decoder rows have unit norm.
    """

    name = "relu"

    def __init__(self, *, l1: float) -> None:
        super().__init__()
        together(relu_faults(l1=l1))
        self.l1 = l1

    def activate(
        self, pre_activations: Float[Tensor, "batch d_sae"]
    ) -> Float[Tensor, "batch d_sae"]:
        return pre_activations.relu()

    def penalty(self, pre_activations: Tensor, z: Tensor, norm: float) -> Float[Tensor, ""]:
        return self.l1 * _mean_of_rows(z.sum(dim=-1)) / norm

    def config(self) -> dict[str, Any]:
        return {"l1": self.l1}


class JumpReLU(Penalised):
    """A latent is active above a threshold of its own, which is learnt (Rajamanoharan et al. 2024).

    The penalty is `l0` * the mean number of active latents. Neither that number nor the jump has a
    gradient by the threshold; the paper's estimate takes it from the pre-activations within half a
    `bandwidth` of the threshold (its equations 11 and 12). A threshold is kept at 0 or above.

    The penalty moves nothing but thresholds, and Adam moves these by about the learning rate a
    step, however large `l0` is. So few steps leave them near where they begin, with more active
    latents than `l0` would give in the end. The paper begins at 0.001 times the vectors' norm and
    takes very many steps; the default here suits hundreds.

    Args:
        d_sae: latents.
        l0: the penalty of one active latent, in shares of the vectors' variance.
        bandwidth, first_threshold: in scaled units, as pre-activations are; their deviation is
            about 1 at first.
    """

    name = "jumprelu"

    def __init__(
        self, d_sae: int, *, l0: float, bandwidth: float = 0.1, first_threshold: float = 1.0
    ) -> None:
        super().__init__()
        together(
            jump_relu_faults(
                d_sae=d_sae, l0=l0, bandwidth=bandwidth, first_threshold=first_threshold
            )
        )
        self.l0, self.bandwidth, self.first_threshold = l0, bandwidth, first_threshold
        self.threshold = nn.Parameter(torch.full((d_sae,), first_threshold))

    @classmethod
    @torch.no_grad()
    def with_thresholds(cls, thresholds: Float[Tensor, " d_sae"]) -> JumpReLU:
        """For use, with these thresholds. One below 0 counts as 0: a code is never below 0."""
        sparsity = cls(len(thresholds), l0=0.0)
        sparsity.threshold.data = thresholds.clamp(min=0).float()
        return sparsity

    def activate(
        self, pre_activations: Float[Tensor, "batch d_sae"]
    ) -> Float[Tensor, "batch d_sae"]:
        return _Jump.apply(pre_activations, self.threshold, self.bandwidth)  # type: ignore[no-any-return]

    def penalty(self, pre_activations: Tensor, z: Tensor, norm: float) -> Float[Tensor, ""]:
        active = _Step.apply(pre_activations, self.threshold, self.bandwidth)
        return self.l0 * _mean_of_rows(active.sum(dim=-1))

    def check(self, d_sae: int) -> None:
        together(jump_relu_faults(**self.config(), latents=d_sae))

    @torch.no_grad()
    def project(self) -> None:
        # A clamp in the pass would have no gradient: a threshold that fell below 0 would stay
        # there.
        self.threshold.clamp_(min=0)

    def in_use(self, factors: Float[Tensor, " d_sae"]) -> Sparsity:
        return JumpReLU.with_thresholds(factors * self.threshold.detach().cpu())

    def config(self) -> dict[str, Any]:
        return {
            "d_sae": len(self.threshold),
            "l0": self.l0,
            "bandwidth": self.bandwidth,
            "first_threshold": self.first_threshold,
        }


def _mean_of_rows(figures: Float[Tensor, " rows"]) -> Float[Tensor, ""]:
    """Their mean; 0 of none, where a process gets no part of a short last batch."""
    return figures.sum() / max(len(figures), 1)


def _near(pre_activations: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """The kernel K((pi - theta) / bandwidth) / bandwidth: a rectangle of width 1."""
    return ((pre_activations - threshold).abs() < bandwidth / 2).to(pre_activations) / bandwidth


class _Jump(torch.autograd.Function):
    """z = pi H(pi - theta); dz/dtheta is estimated as -theta K / bandwidth."""

    @staticmethod
    def forward(ctx: Any, pre_activations: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre_activations, threshold)
        ctx.bandwidth = bandwidth
        return pre_activations * (pre_activations > threshold)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        pre_activations, threshold = ctx.saved_tensors
        near = _near(pre_activations, threshold, ctx.bandwidth)
        of_threshold = -(threshold * near * gradients[0]).flatten(0, -2).sum(dim=0)
        return gradients[0] * (pre_activations > threshold), of_threshold, None


class _Step(torch.autograd.Function):
    """H(pi - theta); its derivative by theta is estimated as -K / bandwidth, by pi it is none."""

    @staticmethod
    def forward(ctx: Any, pre_activations: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre_activations, threshold)
        ctx.bandwidth = bandwidth
        return (pre_activations > threshold).to(pre_activations)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        pre_activations, threshold = ctx.saved_tensors
        near = _near(pre_activations, threshold, ctx.bandwidth)
        return None, -(near * gradients[0]).flatten(0, -2).sum(dim=0), None


SPARSITIES: Mapping[str, type[Sparsity]] = {
    kind.name: kind for kind in (TopK, BatchTopK, MatryoshkaTopK, JumpReLU, ReLU)
}


def sparsity_from_config(name: str, config: Mapping[str, Any]) -> Sparsity:
    """The sparsity `name` with the arguments that its `config()` gave; `UserError` for an unknown
    name or other arguments.
    """
    known = SPARSITIES if name in SPARSITIES else {**_of_plugins(), **SPARSITIES}
    if name not in known:
        raise unknown("sparsity", name, known)
    return call_typed(known[name], config, f"the sparsity {name}")


def _of_plugins() -> dict[str, type[Sparsity]]:
    """{name: class} of the sparsities of the user's own packages."""
    classes: dict[str, type[Sparsity]] = {}
    for part in plugins.parts("sparsities"):
        kind = part.load()
        if not (isinstance(kind, type) and issubclass(kind, Sparsity)):
            raise part.wrong("Sparsity")
        classes[kind.name] = kind
    return classes
