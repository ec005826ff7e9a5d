"""The pipeline call that is running: which pipeline, with which arguments, and so how many pictures
it makes."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from diffusae.backbone.layouts import PassesOf, passes_of


@dataclass(eq=False)
class Call:
    """One call of a pipeline, from its first line to its last."""

    pipe: Any
    passes_of: PassesOf | None
    """How it runs its guidance; None: its class is not known."""
    arguments: Mapping[str, Any]
    """By name, defaults included."""
    outer: Call | None
    """The call that it was made in, by a callback."""
    running: bool = True
    passes: dict[object, int] = field(default_factory=dict)
    """Denoiser calls so far, by whoever counts them."""

    @property
    def pictures(self) -> int | None:
        """How many pictures the arguments ask for: prompts x `num_images_per_prompt`; None where
        there are no prompts."""
        prompt, embedded = self.arguments.get("prompt"), self.arguments.get("prompt_embeds")
        given = embedded if prompt is None else prompt
        if given is None:
            return None
        return (1 if isinstance(given, str) else len(given)) * (
            self.arguments.get("num_images_per_prompt") or 1
        )

    def within(self, other: Call) -> bool:
        """Whether it is `other`, or was made inside of it."""
        return self is other or (self.outer is not None and self.outer.within(other))


_running: ContextVar[Call | None] = ContextVar("running pipeline call", default=None)


def running_call() -> Call | None:
    """The innermost call of a followed pipeline in this thread."""
    return _running.get()


def calling_pipeline() -> Any:
    """The pipeline that this code is called by, followed or not; None outside of all."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "__call__" and isinstance(
            frame.f_locals.get("self"), DiffusionPipeline
        ):
            return frame.f_locals["self"]
        frame = frame.f_back
    return None


@contextmanager
def followed_calls(pipe: Any) -> Iterator[None]:
    """While the context lasts, `running_call` knows the calls of this pipeline; contexts may
    overlap in any order.

    Python looks `__call__` up on the class, so the object is given a subclass of its own class for
    that time.
    """
    if not callable(pipe):  # a denoiser's holder, whose owner runs a loop of their own
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
        return {}  # the pipeline's own call says what is wrong with them
    bound.apply_defaults()
    return bound.arguments
