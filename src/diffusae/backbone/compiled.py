"""A compiled denoiser whose blocks can still be hooked."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo.config as dynamo
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_flux import FluxAttention
from torch import nn

from diffusae.backbone.hookpoints import denoiser_of

log = logging.getLogger(__name__)

COMPILED: tuple[type[nn.Module], ...] = (Attention, FluxAttention, FeedForward, ResnetBlock2D)
"""Where a denoiser's time goes."""


_VARIANTS = 256
"""Shapes of one kind of layer that may be compiled. Torch's own limit of 8 would leave most of a U-Net as it is, in silence."""


def compile_denoiser(pipe: Any, *, backend: str | Callable[..., Any] = "inductor") -> int:
    """Compile the attention, feed-forward and residual layers of the pipeline's denoiser, in place; return their number.

    Their `forward` alone is compiled, not what calls it: hooks on them and on the blocks around them run as ever. Layers of
    one shape share the compiled code. The first picture of a size takes the time that compiling takes (minutes for a large
    model).
    """
    dynamo.recompile_limit = max(dynamo.recompile_limit, _VARIANTS)
    layers = [module for module in denoiser_of(pipe).modules() if isinstance(module, COMPILED)]
    for layer in layers:
        layer.forward = torch.compile(layer.forward, backend=backend, dynamic=False)  # type: ignore[method-assign]
    log.info("%d layers of the denoiser are compiled at their first call", len(layers))
    return len(layers)
