"""Classifier-free guidance: which rows of a hooked batch belong to which branch.

Most pipelines (Stable Diffusion 1, 2, XL and 3, PixArt) run guidance as one batch `[uncond, cond]`; without guidance the
batch is `cond` alone. Others (FLUX) run one pass a branch: then a batch holds one branch, and the pipeline tells which by
the cache context that it opens around the pass.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from diffusae.backbone.adapters import Layout
from diffusae.backbone.hookpoints import denoiser_of
from diffusae.errors import UserError, unknown

CONDITIONINGS = ("cond", "uncond")

Branches = tuple[str, ...]
"""The branches of one batch, in their order along it."""

GUIDED: Branches = ("uncond", "cond")
UNGUIDED: Branches = ("cond",)

_ASKED = "do_classifier_free_guidance"


def configured_branches(layout: Layout | None, guidance: float, true_guidance: float | None) -> Branches:
    """The branches that a call with these scales runs at each step, whatever the denoiser; None: taken as one batch.

    Guidance works above 1 only. Two passes are asked for by `true_guidance`: `guidance` is an input of such models.
    """
    if layout == "none":
        return UNGUIDED
    scale = (true_guidance or 1.0) if layout == "two_passes" else guidance
    return GUIDED if scale > 1.0 else UNGUIDED


def planned_branches(
    denoiser: nn.Module,
    guidance: float,
    *,
    layout: Layout = "one_batch",
    true_guidance: float | None = None,
) -> Branches:
    """`configured_branches` of this denoiser: a model distilled to take the scale as an input (latent consistency) has
    no unconditional branch.
    """
    distilled = getattr(getattr(denoiser, "config", None), "time_cond_proj_dim", None) is not None
    return UNGUIDED if distilled else configured_branches(layout, guidance, true_guidance)


class ToldBranches:
    """The branches of the running denoiser call, as the pipeline itself tells them."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self.passes: list[str] = []
        """The cache contexts that the call is in."""
        self.asked: bool | None = None
        """What the pipeline last asked `encode_prompt` for."""

    @property
    def own_pass(self) -> bool:
        """Whether the call is one branch's own pass."""
        return bool(self.passes) and self.passes[-1] in CONDITIONINGS

    def __call__(self) -> Branches:
        """The branches along the batch; `UserError` when the pipeline does not tell."""
        if self.own_pass:
            return (self.passes[-1],)
        asked = getattr(self._pipe, _ASKED) if hasattr(type(self._pipe), _ASKED) else self.asked
        if asked is None:
            raise UserError(
                f"{type(self._pipe).__name__} does not tell whether it guides in one [uncond, cond] batch or in two "
                "passes; use one of the pipelines in docs/models.md, or one of that kind"
            )
        return GUIDED if asked else UNGUIDED

    def held(self, conditionings: Iterable[str]) -> list[str]:
        """Those of the wanted conditionings that this call holds; the others come in passes of their own.

        Raises:
            UserError: the call holds all branches there are, and not all that are wanted.
        """
        branches = self()
        if not self.own_pass:
            check_conditionings(conditionings, branches)
        return [each for each in conditionings if each in branches]


@contextmanager
def told_branches(pipe: Any) -> Iterator[ToldBranches]:
    """Listen to what the pipeline tells of its branches while the context lasts; it is itself again afterwards.

    It is told by the cache context around a pass (FLUX), by the pipeline's `do_classifier_free_guidance`, or by the
    argument of that name to its `encode_prompt` (PixArt).
    """
    denoiser: Any = denoiser_of(pipe)
    told = ToldBranches(pipe)
    with ExitStack() as stack:
        if hasattr(denoiser, "cache_context"):
            replace_method(stack, denoiser, "cache_context", lambda own: _noting_pass(own, told))
        if not hasattr(type(pipe), _ASKED) and hasattr(pipe, "encode_prompt"):
            replace_method(stack, pipe, "encode_prompt", lambda own: _noting_guidance(own, told))
        yield told


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
                "(FLUX: true_guidance) or ask for 'cond' alone"
            )


def rows_of(conditioning: str, batch: int, branches: Branches) -> slice:
    """The rows of a hooked batch that belong to `conditioning`."""
    check_conditionings([conditioning], branches)
    if batch % len(branches):
        raise UserError(f"a batch of {batch} rows does not divide into the branches {list(branches)}")
    size = batch // len(branches)
    start = branches.index(conditioning) * size
    return slice(start, start + size)


def replace_method(stack: ExitStack, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Put another function in a method's place on this one object until the stack closes."""
    before = vars(owner).get(name)
    setattr(owner, name, make(getattr(owner, name)))
    stack.callback(lambda: delattr(owner, name) if before is None else setattr(owner, name, before))


def _noting_pass(own: Callable[..., Any], told: ToldBranches) -> Callable[..., Any]:
    @contextmanager
    def cache_context(name: str, **options: Any) -> Iterator[None]:
        told.passes.append(name)
        try:
            with own(name, **options):
                yield
        finally:
            told.passes.pop()

    return cache_context


def _noting_guidance(own: Callable[..., Any], told: ToldBranches) -> Callable[..., Any]:
    signature = inspect.signature(own)

    def encode_prompt(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        if _ASKED in bound.arguments:
            told.asked = bound.arguments[_ASKED]
        return own(*args, **kwargs)

    encode_prompt.__signature__ = signature  # pyright: ignore[reportFunctionMemberAccess]
    return encode_prompt
