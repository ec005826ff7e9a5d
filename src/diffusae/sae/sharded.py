"""Training of an autoencoder whose latents are dealt over processes, because one device cannot hold
them all.

Every process has the whole batch and the rows of its own latents: of W_enc, W_dec and b_enc, of
Adam's moments and of the ages. b and the input scaling are the same everywhere. A step is

1. every process finds the k largest pre-activations of a row among its own latents;
2. their values go to all processes, which choose the k largest of all in the same way;
3. a process decodes those of the chosen latents that are its own, and the reconstructions are
   summed over the processes. So the loss and the gradient of the reconstruction are known
   everywhere, and from them every process has the gradients of its own rows.

An example with k = 2 on two processes of three latents, one row:

    process 0: 5 1 4     process 1: 2 6 3      its two largest: 5 4 and 6 3
    of 5 4 | 6 3 the two largest are 5 and 6: process 0 keeps latent 0, process 1 latent 4

The chosen latents are those of one process. The reconstruction is added up in another order, so
weights equal those of one process up to rounding.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Placement, Replicate
from torch.distributed.tensor import Shard as Rows

from diffusae.errors import UserError
from diffusae.sae.across_processes import Shard, anywhere, average, gathered, total, world_size
from diffusae.sae.autoencoder import ScaledPass, SparseAutoencoder
from diffusae.sae.losses import Dead
from diffusae.sae.module import SAEModule
from diffusae.sae.sparsity import Codes, MatryoshkaTopK, Sparsity, TopK

OF_LATENTS = ("W_enc", "W_dec", "b_enc")
"""Weights that have a row a latent. All others are the same in every process."""


def shard_of(rank: int, processes: int, d_sae: int) -> Shard:
    """The latents of one process of several: as many for all, one after the other.

    Raises:
        UserError: d_sae is no multiple of the number of processes.
    """
    if d_sae % processes:
        raise UserError(
            f"d_sae={d_sae} latents cannot be dealt evenly over {processes} processes; choose a"
            " multiple, or another number of processes"
        )
    count = d_sae // processes
    return Shard(rank * count, count, d_sae)


class ShardedTopK(TopK):
    """`TopK` or `MatryoshkaTopK` over the latents of all processes.

    Of equal pre-activations, those of the first latents are kept.

    Args:
        whole: the sparsity that one process would have.
        shard: the latents of this process.

    Raises:
        UserError: the sparsity does not choose the k largest of every row.
    """

    fills_rows = False

    def __init__(self, whole: Sparsity, shard: Shard) -> None:
        if type(whole) not in (TopK, MatryoshkaTopK):
            raise UserError(
                f"latents can be dealt over processes with sae=topk and sae=matryoshka, not with"
                f" {whole.name}; choose one of these, or trainer.shard_latents=false"
            )
        assert isinstance(whole, TopK)
        super().__init__(whole.k)
        self.whole, self.shard = whole, shard
        self._here = TopK(min(whole.k, shard.count))
        self.name = whole.name  # type: ignore[misc]
        self.prefixes = tuple(prefix - shard.first for prefix in whole.prefixes)

    def here(self) -> TopK:
        return self._here

    def winners(self, codes: Codes) -> Codes:
        indices, order = codes.indices.sort(dim=1)
        values = codes.values.gather(1, order)
        every = gathered(values, dim=1)
        # Columns are in the order of latents, so a stable sort puts the first of equal ones first.
        ranked = every.sort(dim=1, descending=True, stable=True).indices
        kept = torch.zeros_like(every, dtype=torch.bool).scatter_(1, ranked[:, : self.k], True)
        mine = kept.unflatten(1, (-1, values.shape[1]))[:, self.shard.first // self.shard.count]
        return Codes(values * mine, indices)

    def total(self, part: Tensor) -> Tensor:
        return total(part)

    def of_all(self, codes: Codes) -> Codes:
        indices = gathered(codes.indices + self.shard.first, dim=1)
        return Codes(gathered(codes.values, dim=1), indices)

    def scaled_pass(
        self, autoencoder: SparseAutoencoder, x: Float[Tensor, "batch d_in"]
    ) -> ScaledPass:
        return autoencoder.chosen_pass(x, self)

    def check(self, d_sae: int) -> None:
        self.whole.check(d_sae)

    def config(self) -> dict[str, Any]:
        return self.whole.config()


class ShardedModule(SAEModule):
    """`SAEModule` of an autoencoder with a `shard`, as one process would train the whole. Every
    process calls it with the same batches.

    Figures of validation that are sums over vectors are as many times too large as there are
    processes, numerator and denominator alike, so their ratios are those of one process.
    """

    @cached_property
    def mesh(self) -> DeviceMesh:
        """The processes as torch.distributed.tensor sees them."""
        return init_device_mesh(self.device.type, (world_size(),))

    def whole(self, tensor: Tensor, *, of_latents: bool) -> DTensor:
        """The tensor over all latents that this one is a part of, or, of one that has no latents,
        the same in every process.
        """
        placement: Placement = Rows(0) if of_latents else Replicate()
        return DTensor.from_local(tensor, self.mesh, [placement], run_check=False)

    def share_gradients(self) -> None:
        """Processes have the whole batch. That biases stay the same everywhere is made sure of."""
        weights = dict(self.autoencoder.named_parameters())
        shared = [weight.grad for name, weight in weights.items() if name not in OF_LATENTS]
        average([gradient for gradient in shared if gradient is not None])

    def clip_gradients(self, most: float) -> None:
        weights = dict(self.autoencoder.named_parameters())
        gradients = [
            self.whole(weight.grad, of_latents=name in OF_LATENTS)
            for name, weight in weights.items()
            if weight.grad is not None
        ]
        norm = torch.nn.utils.get_total_norm(gradients)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        torch.nn.utils.clip_grads_with_norm_(weights.values(), most, norm)

    def _weights_are_broken(self) -> bool:
        return anywhere(torch.tensor(super()._weights_are_broken(), device=self.device))

    def _to_revive(self, revive: bool | None) -> Dead | None:
        ages, latents = self.vectors_since_fired.sort(descending=True, stable=True)
        longest = gathered(ages[: self.k_aux], dim=0)
        order = longest.argsort(descending=True, stable=True)[: self.k_aux]
        chosen = torch.zeros_like(longest, dtype=torch.bool).index_fill_(0, order, True)
        chosen &= longest >= self.dead_after_vectors
        if not chosen.any():
            return None
        shard = self.autoencoder.shard
        mine = chosen.view(-1, len(ages[: self.k_aux]))[shard.first // shard.count]
        return Dead(latents[: self.k_aux][mine])

    @torch.no_grad()
    def _age_latents(self, vectors: int, fired: Bool[Tensor, " d_sae"]) -> float:
        self.vectors_since_fired += vectors
        self.vectors_since_fired.masked_fill_(fired, 0)
        return 1.0
