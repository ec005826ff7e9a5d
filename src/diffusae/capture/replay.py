"""A denoiser's outputs kept from one pipeline call and given again in the next, up to where the two
part.

Two calls of the same prompts and seeds are the same until something is changed; what comes before
need not be computed twice. The pipeline itself is called as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from diffusae.backbone.branches import replace_method
from diffusae.backbone.hookpoints import denoiser_of
from diffusae.backbone.layouts import Branches
from diffusae.capture.clock import running_clock
from diffusae.errors import UserError

Outputs = dict[float, dict[Branches, Any]]
"""{the scheduler's timestep: {the pass's branches: what the denoiser returned}}; one pass holds
both where guidance is one batch."""


@contextmanager
def recorded_outputs(pipe: Any) -> Iterator[Outputs]:
    """What the denoiser returned at each timestep in each pass, of the one pipeline call made
    inside.

    Raises:
        UserError: a timestep comes twice for one branch, so that its outputs could not be told
            apart.
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
    """At these timesteps the denoiser returns what is in `outputs` and does not run; its blocks'
    hooks do not either.

    The calls made inside must be those of the recording: the same prompts, seeds and settings. The
    denoiser is itself again afterwards, after an exception too, with whatever wrapper its `forward`
    had.

    Raises:
        UserError: a timestep that was not recorded.
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
