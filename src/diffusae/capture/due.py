"""A check that wanted blocks run in a denoiser call. Caches and layer skipping may leave them
out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from typing import Any

from torch import nn

from diffusae.backbone.blocks import HookpointInfo
from diffusae.backbone.compiled import runs_compiled
from diffusae.capture.account import numbered
from diffusae.capture.clock import Clock
from diffusae.errors import UserError

Due = Callable[[Clock], Collection[str]]
"""clock -> the blocks that the running denoiser call must run."""


class DueBlocks:
    """Checks after every denoiser call (when the next begins, and at the end) that its due blocks
    ran.

    A block ran if it was called. If its `forward` was replaced, one of its layers must have been
    called too, since a cache may return an old output instead.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        infos: Mapping[str, HookpointInfo],
        clock: Clock,
        due: Due,
        stack: ExitStack,
    ) -> None:
        self._denoiser, self._infos, self._clock = denoiser, infos, clock
        self._due, self._stack = due, stack
        self._wanted: set[str] = set()
        self._called: set[str] = set()
        self._worked: set[str] = set()
        self._watched: set[str] = set()
        self._at = ""

    def begin(self) -> None:
        """Note the begin of a denoiser call.

        Raises:
            UserError: its rows are unknown, or the call before left out a due block.
        """
        self.settle()
        self._clock.branches()
        self._wanted = set(self._due(self._clock))
        if not self._wanted:
            return
        pictures = numbered(self._clock.branches.pictures)
        self._at = f"timestep {self._clock.now:g} for {pictures} of the running call"
        for block in self._wanted - self._watched:
            module = self._denoiser.get_submodule(self._infos[block].path)
            if "forward" in vars(module) and not runs_compiled(module):
                self._watch(block, module)

    def called(self, block: str) -> None:
        """Note that the block was called."""
        self._called.add(block)

    def settle(self) -> None:
        """`UserError` for a block that was due in the last denoiser call and did not run."""
        worked = self._called & (self._worked | (self._infos.keys() - self._watched))
        wanted = self._wanted
        self._wanted, self._called = set(), set()
        self._worked.clear()
        for block in sorted(wanted):
            cache = self._cache(self._denoiser.get_submodule(self._infos[block].path))
            if cache or block not in worked:
                disable = f"{type(self._denoiser).__name__}.disable_cache()"
                remedy = f" ({cache}); call {disable} first" if cache else "; switch it off"
                raise UserError(
                    f"{block} ({self._infos[block].path}) did not run, or not as itself, at "
                    f"{self._at}: a cache or layer skipping left it out or gave an old "
                    f"output{remedy}"
                )

    def _watch(self, block: str, module: nn.Module) -> None:
        self._watched.add(block)
        layers = [layer for layer in module.children() if not isinstance(layer, nn.ModuleList)]
        for layer in layers or [module]:
            handle = layer.register_forward_pre_hook(lambda *_: self._worked.add(block))
            self._stack.callback(handle.remove)

    def _cache(self, module: nn.Module) -> str:
        """The cache of diffusers around the block; "" if there is none.

        The first block of such a cache runs at every step, but with old additions of later blocks.
        """
        config: Any = getattr(self._denoiser, "_cache_config", None)
        hooks: Mapping[str, Any] = getattr(getattr(module, "_diffusers_hook", None), "hooks", {})
        leading = [name for name in hooks if "leader" in name]
        return type(config).__name__ if config is not None else (leading[0] if leading else "")
