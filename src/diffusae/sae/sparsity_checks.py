"""What the settings of a sparsity must be. Known without torch, so that a command refuses others at
once.

Every function takes the settings of its class, and d_sae of the autoencoder as `latents` where it
is known; it yields what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise


def top_k_faults(*, k: int, latents: int | None = None) -> Iterator[str]:
    """Of `TopK`."""
    if k <= 0:
        yield f"k={k} must be at least 1; raise sae.k"
    elif latents is not None and k > latents:
        yield f"k={k} exceeds d_sae={latents}; lower sae.k"


def matryoshka_faults(
    *, k: int, prefixes: Sequence[int], latents: int | None = None
) -> Iterator[str]:
    """Of `MatryoshkaTopK`."""
    yield from top_k_faults(k=k, latents=latents)
    if not prefixes or min(prefixes) < 1:
        yield f"prefixes={list(prefixes)} must be numbers of latents from 1; set sae.prefixes"
    if any(a >= b for a, b in pairwise(prefixes)):
        yield f"prefixes={list(prefixes)} must rise; sort sae.prefixes"
    elif latents is not None and prefixes and prefixes[-1] >= latents:
        yield (
            f"prefixes={list(prefixes)} must stay below d_sae={latents}, the last and whole one;"
            " leave the greatest out"
        )


def batch_top_k_faults(
    *, k: int, threshold_rate: float, latents: int | None = None
) -> Iterator[str]:
    """Of `BatchTopK`."""
    yield from top_k_faults(k=k, latents=latents)
    if not 0 < threshold_rate <= 1:
        yield f"threshold_rate={threshold_rate} must be in (0, 1]; set sae.threshold_rate"


def relu_faults(*, l1: float, latents: int | None = None) -> Iterator[str]:
    """Of `ReLU`."""
    if not l1 >= 0:
        yield f"l1={l1} must not be below 0; raise sae.l1"


def jump_relu_faults(
    *, d_sae: int, l0: float, bandwidth: float, first_threshold: float, latents: int | None = None
) -> Iterator[str]:
    """Of `JumpReLU`, which has a threshold a latent."""
    for name, value, good, rule in (
        ("l0", l0, l0 >= 0, "not be below 0"),
        ("bandwidth", bandwidth, bandwidth > 0, "be above 0"),
        ("first_threshold", first_threshold, first_threshold >= 0, "not be below 0"),
    ):
        if not good:
            yield f"{name}={value} must {rule}; set sae.{name}"
    if latents is not None and d_sae != latents:
        yield f"JumpReLU has {d_sae} thresholds for d_sae={latents}; make them equal"


CHECKS: Mapping[str, Callable[..., Iterator[str]]] = {
    "diffusae.sae.sparsity.TopK": top_k_faults,
    "diffusae.sae.sparsity.MatryoshkaTopK": matryoshka_faults,
    "diffusae.sae.sparsity.BatchTopK": batch_top_k_faults,
    "diffusae.sae.sparsity.ReLU": relu_faults,
    "diffusae.sae.sparsity.JumpReLU": jump_relu_faults,
}
"""{class as `_target_` names it: what is wrong with its settings}"""
