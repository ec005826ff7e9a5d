"""A compiled denoiser whose blocks can still be hooked."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch._dynamo.config as dynamo
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_flux import FluxAttention
from torch import nn

from diffusae.backbone.hookpoints import denoiser_of
from diffusae.errors import UserError

log = logging.getLogger(__name__)

COMPILED: tuple[type[nn.Module], ...] = (Attention, FluxAttention, FeedForward, ResnetBlock2D)
"""Where a denoiser's time goes."""


_VARIANTS = 256
"""Shapes of one kind of layer that may be compiled. Torch's own limit of 8 would leave most of a
U-Net as it is, in silence."""


def compile_denoiser(pipe: Any, *, backend: str | Callable[..., Any] = "inductor") -> int:
    """Compile the attention, feed-forward and residual layers of the pipeline's denoiser, in place;
    return their number.

    Their `forward` alone is compiled, not what calls it: hooks on them and on the blocks around
    them run as ever. Layers of one shape share the compiled code. The first picture of a size takes
    the time that compiling takes (minutes for a large model).
    """
    dynamo.recompile_limit = max(dynamo.recompile_limit, _VARIANTS)
    layers = [module for module in denoiser_of(pipe).modules() if isinstance(module, COMPILED)]
    for layer in layers:
        layer.forward = torch.compile(layer.forward, backend=backend, dynamic=False)  # type: ignore[method-assign]
    log.info("%d layers of the denoiser are compiled at their first call", len(layers))
    return len(layers)


def refuse_compiled(denoiser: nn.Module, paths: Iterable[str] = ()) -> None:
    """`UserError` where the denoiser, or a part of it around one of the blocks at `paths`, is
    compiled as a whole.

    What runs then was traced before the hooks were set, so they would do nothing. The blocks' own
    `forward` may be compiled: hooks lie around it.
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
                f"{path or 'the denoiser'} ({type(module).__name__}) is compiled as a whole"
                " (torch.compile), so hooks in it do nothing; leave that out and set"
                " model.compile=true (compile_denoiser), which compiles the layers that take the"
                " time and leaves the hooks alone"
            )


def runs_compiled(module: nn.Module) -> bool:
    """Whether the module's `forward` is compiled: then its parts' hooks do nothing, and its own
    run."""
    return hasattr(module.forward, "_torchdynamo_orig_callable")


def _calls_compiled(module: nn.Module) -> bool:
    """Whether the module is compiled with its own hooks: `torch.compile(module)`, or
    `module.compile()`."""
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
