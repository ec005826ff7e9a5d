"""Out of memory in one line: the work, and settings that need less, with a value to try."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from omegaconf import DictConfig, OmegaConf

from diffusae.errors import UserError
from diffusae.memory import is_out_of_memory

Given = ParamSpec("Given")
Made = TypeVar("Made")


def tells_memory(
    work: str, *settings: str
) -> Callable[[Callable[Given, Made]], Callable[Given, Made]]:
    """A decorator: out of memory becomes a `UserError` that names smaller `settings`.

    The function's first argument is a configuration, or has one as `cfg`.

    Args:
        work: the function's work, in a word or two.
        settings: dotted names of whole numbers, the best remedy first. Those that are absent, null
            or 1 are left out.
    """

    def decorate(function: Callable[Given, Made]) -> Callable[Given, Made]:
        @functools.wraps(function)
        def wrapped(*args: Given.args, **kwargs: Given.kwargs) -> Made:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                if isinstance(error, UserError) or not is_out_of_memory(error):
                    raise
                first: Any = args[0]
                raise UserError(_message(getattr(first, "cfg", first), work, settings)) from error

        return wrapped

    return decorate


def _message(cfg: DictConfig, work: str, settings: tuple[str, ...]) -> str:
    tries = [
        f"{name}={value // 2} (it is {value})"
        for name in settings
        if isinstance(value := OmegaConf.select(cfg, name), int) and value > 1
    ]
    remedy = f"try {' or '.join(tries)}" if tries else "use a machine or a GPU with more memory"
    return f"out of memory in {work}; {remedy}"
