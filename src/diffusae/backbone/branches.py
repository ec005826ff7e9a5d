"""Classifier-free guidance: which rows of a hooked batch belong to which branch.

Most pipelines (Stable Diffusion 1, 2, XL and 3, PixArt) run guidance as one batch `[uncond, cond]`,
or `[cond]` without guidance. Others (FLUX) run one pass per branch. `layouts` lists the classes.
Here the rows of a denoiser call are compared with the number of pictures of the pipeline call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from diffusae.backbone.calls import Call, calling_pipeline, followed_calls, running_call
from diffusae.backbone.families.table import ADAPTER_NEEDS, adapter_of
from diffusae.backbone.passes import (
    CONDITIONINGS,
    SKIPPED,
    UNGUIDED,
    Branches,
    Passes,
    configured_branches,
)
from diffusae.backbone.settings import Layout
from diffusae.errors import UserError, refuse_text, unknown


def planned_branches(
    denoiser: nn.Module,
    guidance: float,
    *,
    layout: Layout = "one_batch",
    true_guidance: float | None = None,
) -> Branches:
    """`configured_branches` of this denoiser. Models distilled to take the scale as an input
    (latent consistency) have no unconditional branch."""
    distilled = getattr(getattr(denoiser, "config", None), "time_cond_proj_dim", None) is not None
    return UNGUIDED if distilled else configured_branches(layout, guidance, true_guidance)


class BranchCounter:
    """The branches along the batch of the running (or last) denoiser call of a pipeline call."""

    def __init__(self, pipe: Any, layout: Branches | None = None) -> None:
        check_layout(layout)
        self._pipe, self._layout = pipe, None if layout is None else tuple(layout)
        self._call: Call | None = None
        self._answer: Branches | UserError = UserError(
            f"{type(pipe).__name__} does not tell which rows of a denoiser call are which branch "
            "of guidance: it has not called its denoiser yet"
        )
        self.all: Branches = ()
        """The branches of all passes of the running step."""
        self.rows = 0

    @property
    def call(self) -> Call | None:
        """The pipeline call that made the denoiser call. None in the caller's own loop."""
        return self._call

    def __call__(self) -> Branches:
        """The branches along the batch.

        Raises:
            UserError: the branches are unknown, or the rows are not pictures x branches.
        """
        if isinstance(self._answer, UserError):
            raise self._answer
        return self._answer

    @property
    def pictures(self) -> int:
        """Pictures of the denoiser call."""
        return self.rows // len(self())

    def held(self, conditionings: Iterable[str]) -> list[str]:
        """The wanted conditionings in this denoiser call. Others may come in further passes.

        Raises:
            UserError: a wanted conditioning is in no pass of the step.
        """
        branches = self()
        check_conditionings(conditionings, self.all)
        return [conditioning for conditioning in conditionings if conditioning in branches]

    def begin(self, given: Mapping[str, Any], rows: int) -> None:
        """Note the begin of a denoiser call with these arguments and number of rows."""
        call, caller = running_call(), calling_pipeline()
        last = self._call if self._call is not None and self._call.running else None
        if last is not None and (call is None or not call.within(last)):
            raise UserError(
                f"two calls of {type(self._pipe).__name__} run at once, so their steps cannot be "
                "told apart; run them one after the other"
            )
        self._call, self.rows = call if call is not None and call.pipe is self._pipe else None, rows
        try:
            self._answer, self.all = self._counted(given, rows, caller)
        except UserError as error:
            self._answer, self.all = error, ()

    def _counted(
        self, given: Mapping[str, Any], rows: int, caller: Any
    ) -> tuple[Branches, Branches]:
        """The branches of this pass, and of all passes of its step.

        Example: 3 pictures under guidance in one batch give the passes (("uncond", "cond"),), so 6
        rows are expected: 0 to 2 are `uncond`, 3 to 5 `cond`. In two passes, a pass has 3 rows.
        """
        name, call = type(self._pipe).__name__, self._call
        if caller is not None and (caller is not self._pipe or call is None):
            raise UserError(
                f"{type(caller).__name__} runs the denoiser of this {name}; give the pipeline that "
                "is called, before it is called"
            )
        if call is None or call.passes_of is None:
            if self._layout is None:
                raise unknown_rows(self._pipe, own_loop=call is None)
            passes: Passes = (self._layout,)
        else:
            passes = call.passes_of(self._pipe, call.arguments)
        every = tuple(branch for branches in passes for branch in branches)
        if given.get("skip_layers") is not None and call is not None:
            branches: Branches = (SKIPPED,)
        else:
            number = 0 if call is None else call.passes.get(self, 0)
            branches = passes[number % len(passes)]
            if call is not None:
                call.passes[self] = number + 1
        pictures = None if call is None else call.pictures
        if rows % len(branches) if pictures is None else rows != pictures * len(branches):
            asked = "" if pictures is None else f" for {pictures} pictures"
            raise UserError(
                f"{name} runs its denoiser on {rows} rows{asked}, which is not one row per picture "
                f"and branch of {list(branches)}; make prompts, embeddings and latents agree, and "
                "do not change the batch during the call"
            )
        return branches, every


def unknown_rows(pipe: Any, *, own_loop: bool) -> UserError:
    """The error for a denoiser call with unknown rows."""
    name = type(pipe).__name__
    remedy = 'declare them, as in layout=("uncond", "cond")'
    if own_loop:
        return UserError(
            f"{name} does not tell which rows are which branch of guidance: its denoiser was "
            f"called outside of a call of the pipeline. In a loop of your own {remedy}"
        )
    return UserError(
        f"{name} does not tell which rows of its denoiser calls are which branch of guidance: it "
        f"is none of the pipelines in docs/models.md. If you know the rows, {remedy}; "
        f"{ADAPTER_NEEDS}"
    )


def check_layout(layout: Branches | None) -> None:
    """`UserError` if a declared layout is empty or names a branch twice."""
    if layout is None:
        return
    refuse_text("layout", layout)
    if not layout or len(set(layout)) != len(layout):
        raise UserError(
            f"layout={tuple(layout)} must name the branches along the batch, none twice, such as"
            ' ("uncond", "cond")'
        )


@contextmanager
def counted_branches(
    pipe: Any,
    counter: BranchCounter | None = None,
    *,
    then: Callable[[Mapping[str, Any]], None] | None = None,
) -> Iterator[BranchCounter]:
    """Within the context, know the branches of every denoiser call. `then` gets a call's arguments.

    Errors are raised when the branches are read, except for two calls at once.
    """
    adapter, counter = adapter_of(pipe), BranchCounter(pipe) if counter is None else counter

    def begin(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = adapter.given(args, kwargs)
        counter.begin(given, adapter.rows(given))
        if then is not None:
            then(given)

    with followed_calls(pipe):
        handle = adapter.denoiser.register_forward_pre_hook(begin, with_kwargs=True)
        try:
            yield counter
        finally:
            handle.remove()


def check_conditionings(conditionings: Iterable[str], branches: Branches) -> None:
    """`UserError` for a conditioning that does not exist or is not among these branches."""
    refuse_text("conditionings", conditionings)
    for conditioning in conditionings:
        if conditioning not in CONDITIONINGS:
            raise unknown("conditioning", conditioning, CONDITIONINGS)
        if conditioning not in branches:
            raise UserError(
                f"{conditioning!r} was asked for, but this run has no {conditioning} branch: the "
                "unconditional pass exists only under classifier-free guidance, which needs a "
                "guidance scale above 1 and a model that is not guidance-distilled; raise the "
                "guidance scale (FLUX.1 and Qwen-Image: true_guidance) or ask for 'cond' alone"
            )


def rows_of(conditioning: str, batch: int, branches: Branches) -> slice:
    """The rows of a hooked batch that belong to `conditioning`."""
    check_conditionings([conditioning], branches)
    if batch % len(branches):
        raise UserError(f"a batch of {batch} rows does not divide into {list(branches)}")
    size = batch // len(branches)
    start = branches.index(conditioning) * size
    return slice(start, start + size)


def replace_method(stack: ExitStack, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replace a method of this one object until the stack closes.

    An attribute of the object itself, such as an offloading wrapper, is restored afterwards. A
    replacement that another has made meanwhile stays.
    """
    before = vars(owner).get(name)
    ours = make(getattr(owner, name))
    setattr(owner, name, ours)

    def restore() -> None:
        if vars(owner).get(name) is ours:
            delattr(owner, name) if before is None else setattr(owner, name, before)

    stack.callback(restore)
