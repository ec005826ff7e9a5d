"""A compiled denoiser whose blocks can still be hooked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from diffusae.backbone.hookpoints import denoiser_of
from diffusae.errors import UserError

log = logging.getLogger(__name__)


def compiled_layers() -> tuple[type[nn.Module], ...]:
    """The layers that take most of a denoiser's time."""
    from diffusers.models.attention import AttentionModuleMixin, FeedForward
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.transformers.transformer_flux2 import Flux2FeedForward

    newer: Any = AttentionModuleMixin  # of FLUX and later families; always a module too
    return (Attention, newer, FeedForward, Flux2FeedForward, ResnetBlock2D)


_VARIANTS = 256
"""Limit of compiled shapes per kind of layer. Torch's own limit of 8 silently skips most of a
U-Net."""


def compile_denoiser(pipe: Any, *, backend: str | Callable[..., Any] = "inductor") -> int:
    """Compile the denoiser's attention, feed-forward and residual layers in place; return their
    number.

    Only their `forward` is compiled, so hooks on them and on blocks around them still run. Layers
    of one shape share the compiled code. The first picture of a size takes longer, since it
    includes compiling (minutes for a large model).
    """
    import torch
    import torch._dynamo.config as dynamo  # Dynamo takes seconds to import

    dynamo.recompile_limit = max(dynamo.recompile_limit, _VARIANTS)
    kinds = compiled_layers()
    layers = [module for module in denoiser_of(pipe).modules() if isinstance(module, kinds)]
    for layer in layers:
        layer.forward = torch.compile(layer.forward, backend=backend, dynamic=False)  # type: ignore[method-assign]
    log.info("%d layers of the denoiser are compiled at their first call", len(layers))
    return len(layers)


def refuse_compiled(denoiser: nn.Module, paths: Iterable[str] = ()) -> None:
    """`UserError` if the denoiser, or a module around a block of `paths`, is compiled as a whole.

    It was then traced without hooks, so they would do nothing. A block's own `forward` may be
    compiled, since hooks run around it.
    """
    around = {"": denoiser}
    for path in paths:
        names = path.split(".")
        around |= {
            ".".join(names[:n]): denoiser.get_submodule(".".join(names[:n]))
            for n in range(1, len(names))
        }
        if _calls_compiled(denoiser.get_submodule(path)):
            around[path] = denoiser.get_submodule(path)
    for path, module in around.items():
        if _calls_compiled(module) or runs_compiled(module):
            raise UserError(
                f"{path or 'the denoiser'} ({type(module).__name__}) is compiled as a whole "
                "(torch.compile), so hooks in it do nothing; do not compile it, and set "
                "model.compile=true (compile_denoiser), which compiles the slow layers and keeps "
                "hooks working"
            )


def runs_compiled(module: nn.Module) -> bool:
    """Whether the module's `forward` is compiled: hooks of its parts do nothing, its own hooks
    run."""
    return hasattr(module.forward, "_torchdynamo_orig_callable")


def _calls_compiled(module: nn.Module) -> bool:
    """Whether the module is compiled with its hooks (`torch.compile(module)`,
    `module.compile()`)."""
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
