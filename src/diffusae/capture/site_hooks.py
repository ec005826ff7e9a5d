"""The hooks of one hookpoint: they show a module's input or output, and replace it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from diffusae.backbone.blocks import HookpointInfo
from diffusae.backbone.sites import OF_BLOCK, reading
from diffusae.capture.sequences import call_argument, returned, with_argument, with_returned
from diffusae.errors import UserError

Seen = Callable[[Tensor, Tensor | None], Tensor | None]
"""(the tensor with the hookpoint's vectors; for an update, the tensor that they are the change of)
-> the tensor that takes its place, or None."""


def hook_site(denoiser: nn.Module, info: HookpointInfo, seen: Seen, stack: ExitStack) -> None:
    """Call `seen` whenever the hookpoint's vectors are computed, until `stack` is closed.

    Raises:
        UserError: the block computes its MLP in pieces.
    """
    how = reading(info)
    block, module = denoiser.get_submodule(info.path), denoiser.get_submodule(how.module)
    _require_whole(info, block)
    tokens, is_turn = how.tokens, _turns(block, how.call, stack)

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not is_turn():
            return None
        edited = seen(call_argument(module, tokens.argument, args, kwargs), None)
        if edited is None:
            return None
        return with_argument(module, tokens.argument, args, kwargs, edited)

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if not is_turn():
            return None
        given = None
        if info.site in OF_BLOCK:
            given = call_argument(module, tokens.argument, args, kwargs)
        after = returned(output, tokens, given)
        edited = seen(after, given if info.site == "update" else None)
        return None if edited is None else with_returned(output, tokens, edited)

    if how.edge == "input":
        handle = module.register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = module.register_forward_hook(after, with_kwargs=True)
    stack.callback(handle.remove)


def _turns(block: nn.Module, wanted: int | None, stack: ExitStack) -> Callable[[], bool]:
    """Whether the running call of a layer is the wanted one among its calls in one call of the
    block.

    Example: CogView 4's MLP runs for the picture (0), and then for the text (1).
    """
    if wanted is None:
        return lambda: True
    calls = -1

    def begin(*_: Any) -> None:
        nonlocal calls
        calls = -1

    def is_turn() -> bool:
        nonlocal calls
        calls += 1
        return calls == wanted

    stack.callback(block.register_forward_pre_hook(begin).remove)
    return is_turn


def _require_whole(info: HookpointInfo, block: nn.Module) -> None:
    if info.site.startswith("mlp") and getattr(block, "_chunk_size", None) is not None:
        raise UserError(
            f"{info.path} computes its MLP in pieces (forward chunking), so {info.site} is never"
            " whole; call disable_forward_chunking() of the denoiser first"
        )
