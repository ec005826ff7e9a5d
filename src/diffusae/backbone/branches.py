"""Classifier-free guidance: which rows of a hooked batch belong to which branch.

Stable Diffusion pipelines run guidance as one batch `[uncond, cond]`; without guidance the batch is `cond`
alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jaxtyping import Shaped
from torch import Tensor, nn

from diffusae.errors import UserError, unknown

CONDITIONINGS = ("cond", "uncond")

Branches = tuple[str, ...]
"""The branches of one batch, in their order along it."""

GUIDED: Branches = ("uncond", "cond")
UNGUIDED: Branches = ("cond",)


def planned_branches(denoiser: nn.Module, guidance: float) -> Branches:
    """The branches that a call with this guidance scale will run.

    Guidance works above 1 only, and never in a model distilled to take the scale as an input (latent
    consistency).
    """
    distilled = getattr(getattr(denoiser, "config", None), "time_cond_proj_dim", None) is not None
    return GUIDED if guidance > 1.0 and not distilled else UNGUIDED


def running_branches(pipe: Any) -> Branches:
    """The branches of the call that `pipe` is in (or was in last), as the pipeline itself tells them."""
    if not hasattr(type(pipe), "do_classifier_free_guidance"):
        raise UserError(
            f"{type(pipe).__name__} does not tell whether it guides in one [uncond, cond] batch; "
            "use a StableDiffusionPipeline or a pipeline of that kind"
        )
    return GUIDED if pipe.do_classifier_free_guidance else UNGUIDED


def check_conditionings(conditionings: Iterable[str], branches: Branches) -> None:
    """`UserError` for a conditioning that does not exist or that these branches do not hold."""
    for conditioning in conditionings:
        if conditioning not in CONDITIONINGS:
            raise unknown("conditioning", conditioning, CONDITIONINGS)
        if conditioning not in branches:
            raise UserError(
                f"{conditioning!r} was asked for, but this run has no {conditioning} branch: the "
                "unconditional pass exists only under classifier-free guidance, which needs a guidance "
                "scale above 1 and a model that is not guidance-distilled; raise the guidance scale "
                "or ask for 'cond' alone"
            )


def rows_of(conditioning: str, batch: int, branches: Branches) -> slice:
    """The rows of a hooked batch that belong to `conditioning`."""
    check_conditionings([conditioning], branches)
    if batch % len(branches):
        raise UserError(f"a batch of {batch} rows does not divide into the branches {list(branches)}")
    size = batch // len(branches)
    start = branches.index(conditioning) * size
    return slice(start, start + size)


def split_branches(
    tensor: Shaped[Tensor, "rows ..."], branches: Branches
) -> dict[str, Shaped[Tensor, "pictures ..."]]:
    """A hooked batch as {conditioning: its rows}; views, not copies."""
    return {conditioning: tensor[rows_of(conditioning, len(tensor), branches)] for conditioning in branches}
