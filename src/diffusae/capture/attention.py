"""A model's own cross-attention maps: the baseline without an SAE for "where will the object be".

In the manner of DAAM (arXiv 2210.04885): softmax probabilities of the cross-attention, averaged over heads.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from jaxtyping import Float
from torch import Tensor, nn

from diffusae.backbone.branches import rows_of, running_branches
from diffusae.backbone.hookpoints import denoiser_of, list_hookpoints
from diffusae.capture.hooks import check_visited, hook_blocks
from diffusae.errors import UserError


@dataclass
class CapturedAttention:
    """What `capture_cross_attention` recorded; complete once its context has ended."""

    maps: dict[tuple[str, float], Float[Tensor, "pictures positions tokens"]] = field(default_factory=dict)
    """{(block, timestep): probabilities}, float32 on the CPU; they sum to 1 over the padded prompt."""
    grids: dict[str, tuple[int, int]] = field(default_factory=dict)
    """{block: (h, w)}; positions are row-major over it."""


@contextmanager
def capture_cross_attention(
    pipe: Any, timesteps: Collection[float], *, hookpoints: Mapping[str, str] | None = None
) -> Iterator[CapturedAttention]:
    """Record the conditional branch's cross-attention at the wanted scheduler timesteps.

    `hookpoints` is {block: module path}; None takes every transformer block, under its path. A block of
    several layers gives the mean over them. The layers' attention processors stay as they are: the
    probabilities are computed beside them, at the wanted timesteps only, from the layer's own inputs and
    projections, so pictures do not change by a bit.
    """
    if not timesteps:
        raise UserError("no timestep is wanted; name at least one to record")
    denoiser = denoiser_of(pipe)
    if hookpoints is None:
        hookpoints = {path: path for path in list_hookpoints(denoiser)}
    wanted = frozenset(timesteps)
    captured = CapturedAttention()
    parts: defaultdict[tuple[str, float], defaultdict[int, list[Tensor]]] = defaultdict(
        lambda: defaultdict(list)
    )

    def note_grid(block: str, _timestep: float, _before: Tensor, after: Tensor) -> None:
        captured.grids[block] = (after.shape[-2], after.shape[-1])

    with ExitStack() as stack:
        clock = stack.enter_context(hook_blocks(pipe, hookpoints, note_grid, timesteps=wanted))

        def hook_for(block: str, layer: int) -> Callable[..., None]:
            def hook(attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                if clock.now is None or clock.now not in wanted:
                    return
                queries = args[0] if args else kwargs["hidden_states"]
                rows = rows_of("cond", len(queries), running_branches(pipe))
                words = kwargs["encoder_hidden_states"]
                mask = kwargs.get("attention_mask")
                probabilities = cross_attention(
                    attention, queries[rows], words[rows], mask=None if mask is None else mask[rows]
                )
                parts[block, clock.now][layer].append(probabilities.mean(dim=1).cpu())

            return hook

        for block, path in hookpoints.items():
            for layer, attention in enumerate(_cross_attentions(denoiser, path)):
                handle = attention.register_forward_pre_hook(hook_for(block, layer), with_kwargs=True)
                stack.callback(handle.remove)
        yield captured
    check_visited(timesteps, clock)
    for key, layers in parts.items():
        captured.maps[key] = torch.stack([torch.cat(calls) for calls in layers.values()]).mean(dim=0)


def cross_attention(
    attention: Attention,
    queries: Float[Tensor, "rows positions d_in"],
    words: Float[Tensor, "rows tokens d_text"],
    *,
    mask: Float[Tensor, "rows 1 tokens"] | None = None,
) -> Float[Tensor, "rows heads positions tokens"]:
    """softmax(Q K^T / sqrt(d_head) + mask) over the tokens, in float32, by the layer's own projections."""
    assert attention.to_k is not None  # None only in layers with added keys, which are no 2D transformer's
    if attention.norm_cross:
        words = attention.norm_encoder_hidden_states(words)
    query = attention.to_q(queries).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
    key = attention.to_k(words).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
    if attention.norm_q is not None:
        query = attention.norm_q(query)
    if attention.norm_k is not None:
        key = attention.norm_k(key)
    scores = query.float() @ key.float().transpose(-1, -2) * query.shape[-1] ** -0.5
    return (scores if mask is None else scores + mask[:, None].float()).softmax(dim=-1)


def word_tokens(tokenizer: Any, prompt: str, word: str) -> list[int]:
    """The positions of `word`'s tokens in the encoded prompt, start token counted; [] when it has none."""
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            f"{type(tokenizer).__name__} gives no character offsets; use a fast tokenizer (transformers 5)"
        )
    pattern = r"\s+".join(re.escape(part) for part in word.split())
    if not pattern:
        return []
    spans = [match.span() for match in re.finditer(rf"(?<!\w){pattern}(?!\w)", prompt, flags=re.IGNORECASE)]
    encoded = tokenizer(
        prompt, truncation=True, max_length=tokenizer.model_max_length, return_offsets_mapping=True
    )
    return [
        position
        for position, (start, end) in enumerate(encoded["offset_mapping"])
        if any(start < stop and end > begin for begin, stop in spans)
    ]


def _cross_attentions(denoiser: nn.Module, path: str) -> list[Attention]:
    """The cross-attention of each layer of the 2D transformer block at `path`."""
    layers: Any = denoiser.get_submodule(path).transformer_blocks
    found = [layer.attn2 for layer in layers if layer.attn2 is not None and layer.attn2.is_cross_attention]
    if not found:
        raise UserError(f"{path} has no cross-attention; name a block whose layers read the prompt")
    return found


def mean_map(
    captured: CapturedAttention, timestep: float, *, grid: tuple[int, int]
) -> Float[Tensor, "pictures positions tokens"]:
    """All blocks' maps at a timestep, brought to one `grid` (bilinear) and averaged: a model's one answer at one step."""
    resized = []
    for (block, at), maps in captured.maps.items():
        if at == timestep:
            channels = maps.transpose(1, 2).unflatten(-1, captured.grids[block])
            resized.append(F.interpolate(channels, size=grid, mode="bilinear", align_corners=False))
    if not resized:
        raise UserError(f"no attention was recorded at timestep {timestep:g}; capture it there")
    return torch.stack(resized).mean(dim=0).flatten(2).transpose(1, 2)
