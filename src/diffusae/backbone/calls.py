"""The running pipeline call: its pipeline, its arguments and its number of pictures."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from diffusae.backbone.families.table import passes_of
from diffusae.backbone.passes import PassesOf


@dataclass(eq=False)
class Call:
    """One call of a pipeline, from its first line to its last."""

    pipe: Any
    passes_of: PassesOf | None
    """The passes of its guidance; None if its class is unknown."""
    arguments: Mapping[str, Any]
    """By name, defaults included."""
    outer: Call | None
    """The call whose callback made this one."""
    running: bool = True
    passes: dict[object, int] = field(default_factory=dict)
    """counter -> denoiser calls so far."""

    @property
    def pictures(self) -> int | None:
        """Pictures of the call: prompts x `num_images_per_prompt`. None without prompts."""
        prompt, embedded = self.arguments.get("prompt"), self.arguments.get("prompt_embeds")
        given = embedded if prompt is None else prompt
        if given is None:
            return None
        prompts = 1 if isinstance(given, str) else len(given)
        return prompts * (self.arguments.get("num_images_per_prompt") or 1)

    def within(self, other: Call) -> bool:
        """Whether it is `other` or was made inside of it."""
        return self is other or (self.outer is not None and self.outer.within(other))


_running: ContextVar[Call | None] = ContextVar("running pipeline call", default=None)


def running_call() -> Call | None:
    """The innermost call of a followed pipeline in this thread."""
    return _running.get()


def calling_pipeline() -> Any:
    """The pipeline whose call runs this code, followed or not. None outside of a call."""
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    frame = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self") if frame.f_code.co_name == "__call__" else None
        if isinstance(caller, DiffusionPipeline):
            return caller
        frame = frame.f_back
    return None


@contextmanager
def followed_calls(pipe: Any) -> Iterator[None]:
    """Within the context, `running_call` knows the calls of this pipeline. Contexts may overlap.

    Python looks `__call__` up on the class, so the object temporarily gets a subclass of its class.
    """
    if not callable(pipe):  # it only holds a denoiser, for the caller's own loop
        yield
        return
    if "_followers" not in vars(type(pipe)):
        pipe.__class__ = _following(type(pipe))
    type(pipe)._followers += 1
    try:
        yield
    finally:
        type(pipe)._followers -= 1
        if not type(pipe)._followers:
            pipe.__class__ = type(pipe).__base__


def _following(kind: Any) -> type:
    own, passes = kind.__call__, passes_of(kind)
    signature = inspect.signature(own)

    @functools.wraps(own)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = Call(self, passes, _bound(signature, self, args, kwargs), _running.get())
        token = _running.set(call)
        try:
            return own(self, *args, **kwargs)
        finally:
            call.running = False
            _running.reset(token)

    named = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(kind)(kind.__name__, (kind,), named | {"__call__": __call__, "_followers": 0})


def _bound(
    signature: inspect.Signature, pipe: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Mapping[str, Any]:
    try:
        bound = signature.bind(pipe, *args, **kwargs)
    except TypeError:
        return {}  # the pipeline's call itself raises the error
    bound.apply_defaults()
    return bound.arguments
