"""Reusing a denoiser's outputs of one pipeline call in the next, up to the first difference.

Two calls with the same prompts and seeds are equal until an edit begins. The steps before need not
be computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from diffusae.backbone.branches import replace_method
from diffusae.backbone.hookpoints import denoiser_of
from diffusae.backbone.passes import Branches
from diffusae.capture.clock import running_clock
from diffusae.errors import UserError

Outputs = dict[float, dict[Branches, Any]]
"""{the scheduler's timestep: {branches of the pass: the denoiser's output}}."""


@contextmanager
def recorded_outputs(pipe: Any) -> Iterator[Outputs]:
    """The denoiser's outputs in all passes of the one pipeline call inside.

    Raises:
        UserError: a timestep comes twice for one branch.
    """
    outputs: Outputs = {}
    with running_clock(pipe) as clock:

        def keep(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            assert clock.now is not None
            passes = outputs.setdefault(clock.now, {})
            branches = clock.branches()
            if branches in passes:
                raise UserError(
                    f"timestep {clock.now:g} comes twice; record one call of a DDIM-like scheduler"
                )
            passes[branches] = output

        handle = denoiser_of(pipe).register_forward_hook(keep)
        try:
            yield outputs
        finally:
            handle.remove()


@contextmanager
def replayed_outputs(pipe: Any, outputs: Outputs, timesteps: Collection[float]) -> Iterator[None]:
    """At these timesteps the denoiser returns `outputs`. It and its blocks' hooks do not run.

    The calls inside must have the recording's prompts, seeds and settings. The denoiser's own
    `forward` is restored afterwards, also after an exception.

    Raises:
        UserError: a timestep was not recorded.
    """
    missing = sorted(set(timesteps) - set(outputs), reverse=True)
    if missing:
        raise UserError(f"timestep {missing[0]:g} was not recorded; record a whole call first")
    denoiser: Any = denoiser_of(pipe)
    replayed = frozenset(timesteps)

    with ExitStack() as stack:
        clock = stack.enter_context(running_clock(pipe))

        def around(run: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                if clock.now in replayed:
                    return outputs[clock.now][clock.branches()]
                return run(*args, **kwargs)

            return forward

        replace_method(stack, denoiser, "forward", around)
        yield
