"""Which latents may be active: a sparsity turns pre-activations into sparse codes.

A sparsity is a callable with a `name`, a `k` and a `config()`. Another one (BatchTopK, JumpReLU, ...) is a
sibling class that is added to `SPARSITIES`; rows with fewer active latents than the widest are padded with
the value 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffusae.errors import UserError, unknown


class Codes(NamedTuple):
    """Sparse codes. An entry is active where its value is above 0; the index of another means nothing."""

    values: Float[Tensor, "... k"]
    indices: Int[Tensor, "... k"]


class Sparsity(Protocol):
    """Chooses the active latents of every row."""

    name: ClassVar[str]

    @property
    def k(self) -> int:
        """The most latents that a row may have active on average."""
        ...

    def __call__(self, pre_activations: Float[Tensor, "... d_sae"]) -> Codes:
        """The codes: values not below 0, and the latents' indices, in no particular order."""
        ...

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON values."""
        ...


class TopK:
    """ReLU, then the k largest of every row (Emergence, section 3: z = TopK(ReLU(.))).

    A row has at most k active latents: fewer when fewer pre-activations are above 0. Which one of several
    equal pre-activations is kept is unspecified but the same at every call with the same input, device and
    thread count.
    """

    name: ClassVar[str] = "topk"

    def __init__(self, k: int) -> None:
        if k <= 0:
            raise UserError(f"k={k} must be at least 1; raise sae.k")
        self._k = k

    @property
    def k(self) -> int:
        return self._k

    def __call__(self, pre_activations: Float[Tensor, "... d_sae"]) -> Codes:
        # ReLU keeps the order, so it can wait until only k values are left.
        values, indices = torch.topk(pre_activations, self._k, dim=-1, sorted=False)
        return Codes(values.relu(), indices)

    def config(self) -> dict[str, Any]:
        return {"k": self._k}


SPARSITIES: Mapping[str, type[TopK]] = {TopK.name: TopK}


def sparsity_from_config(name: str, config: Mapping[str, Any]) -> Sparsity:
    """The sparsity `name` with the arguments that its `config()` gave; `UserError` for an unknown name."""
    if name not in SPARSITIES:
        raise unknown("sparsity", name, SPARSITIES)
    return SPARSITIES[name](**config)
