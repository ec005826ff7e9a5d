"""Blocks that must run in a denoiser call and do not: a cache or layer skipping leaves them out, or
gives an old output."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from typing import Any

from torch import nn

from diffusae.backbone.compiled import runs_compiled
from diffusae.backbone.hookpoints import HookpointInfo
from diffusae.capture.account import numbered
from diffusae.capture.clock import Clock
from diffusae.errors import UserError

Due = Callable[[Clock], Collection[str]]
"""due(clock) -> the blocks that the running denoiser call must run."""


class DueBlocks:
    """Looks back at every denoiser call, when the next one begins and at the end, whether its due
    blocks have worked.

    A block has worked if it was called and, where its `forward` was replaced, one of its own layers
    was: what gives an output that was kept from an earlier step calls the block alone.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        infos: Mapping[str, HookpointInfo],
        clock: Clock,
        due: Due,
        stack: ExitStack,
    ) -> None:
        self._denoiser, self._infos, self._clock, self._due, self._stack = (
            denoiser,
            infos,
            clock,
            due,
            stack,
        )
        self._wanted: set[str] = set()
        self._called: set[str] = set()
        self._worked: set[str] = set()
        self._watched: set[str] = set()
        self._at = ""

    def begin(self) -> None:
        """A denoiser call begins.

        Raises:
            UserError: its rows are not known, or the call before it left out what was due.
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
        """The block was called."""
        self._called.add(block)

    def settle(self) -> None:
        """`UserError` for a block that was due in the last denoiser call and did not work."""
        wanted, worked = (
            self._wanted,
            self._called & (self._worked | (self._infos.keys() - self._watched)),
        )
        self._wanted, self._called = set(), set()
        self._worked.clear()
        for block in sorted(wanted):
            cache = self._cache(self._denoiser.get_submodule(self._infos[block].path))
            if cache or block not in worked:
                raise UserError(
                    f"{block} ({self._infos[block].path}) did not run, or not as itself, at"
                    f" {self._at}: a cache or layer skipping left it out, or gave an output that"
                    " was kept"
                    + (
                        f" ({cache}); call {type(self._denoiser).__name__}.disable_cache() first"
                        if cache
                        else "; switch it off"
                    )
                )

    def _watch(self, block: str, module: nn.Module) -> None:
        self._watched.add(block)
        layers = [each for each in module.children() if not isinstance(each, nn.ModuleList)]
        for layer in layers or [module]:
            handle = layer.register_forward_pre_hook(lambda *_: self._worked.add(block))
            self._stack.callback(handle.remove)

    def _cache(self, module: nn.Module) -> str:
        """The cache of diffusers that stands between the block and the denoiser; "" where there is
        none.

        The first block runs at every step, but is given what the blocks behind it added earlier.
        """
        config: Any = getattr(self._denoiser, "_cache_config", None)
        hooks: Mapping[str, Any] = getattr(getattr(module, "_diffusers_hook", None), "hooks", {})
        leading = [name for name in hooks if "leader" in name]
        return type(config).__name__ if config is not None else (leading[0] if leading else "")
