"""A model's own cross-attention maps, a baseline without an SAE for the place of an object.

As in DAAM (arXiv 2210.04885): softmax probabilities of the cross-attention, averaged over heads.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diffusae.backbone.blocks import Grid
from diffusae.backbone.branches import rows_of
from diffusae.backbone.compiled import refuse_compiled
from diffusae.backbone.families.table import list_hookpoints
from diffusae.backbone.hookpoints import denoiser_of, find_all
from diffusae.backbone.passes import Branches
from diffusae.backbone.sites import completed, parsed
from diffusae.backbone.text_attention import TEXT_KEYS, text_attentions
from diffusae.capture.account import Account, check_visited, in_order
from diffusae.capture.clock import Clock
from diffusae.capture.hooks import Moment, hook_blocks
from diffusae.capture.offload import Offload
from diffusae.capture.sequences import named_arguments
from diffusae.errors import UserError


@dataclass
class CapturedAttention:
    """The recording of `capture_cross_attention`, complete after its context."""

    maps: dict[tuple[str, float], Float[Tensor, "pictures positions tokens"]] = field(
        default_factory=dict
    )
    """{(block, timestep): probabilities}, float32 on the CPU. They sum to 1 over the padded
    prompt."""
    grids: dict[str, Grid] = field(default_factory=dict)
    """{block: (h, w)}; positions are row-major over it."""


@contextmanager
def capture_cross_attention(
    pipe: Any,
    timesteps: Collection[float],
    *,
    hookpoints: Mapping[str, str | int] | None = None,
    layout: Branches | None = None,
) -> Iterator[CapturedAttention]:
    """Record the conditional branch's attention to the text at the wanted scheduler timesteps.

    The probabilities are computed from a layer's inputs and projections, beside its attention
    processor, so pictures stay equal to the bit. A block of several layers gives their mean. In
    joint attention (Stable Diffusion 3, FLUX, Qwen-Image, HiDream), positions attend to picture and
    text at once: the text's share is scaled to sum to 1.

    Args:
        hookpoints: {block: module path, or place}. None: all blocks with an attention of their own
            to the text, by path (FLUX: the double-stream blocks).
        layout: as in `capture_updates`, which also raises the same errors.
    """
    if not timesteps:
        raise UserError("no timestep is wanted; name at least one to record")
    denoiser = denoiser_of(pipe)
    refuse_compiled(denoiser)
    known = list_hookpoints(denoiser)
    if hookpoints is None:
        hookpoints = {path: path for path in known if text_attentions(denoiser, path)}
        if not hookpoints:
            raise UserError(
                f"{type(denoiser).__name__} has no cross-attention, and no projection of its own "
                "for the text: its layers attend over text and picture alike"
            )
    hookpoints = {
        block: completed(parsed(name)[0], site="after") for block, name in hookpoints.items()
    }
    infos = find_all(known, hookpoints)
    wanted = frozenset(timesteps)
    captured = CapturedAttention()
    parts: defaultdict[tuple[str, float], list[tuple[int, Tensor]]] = defaultdict(list)
    offload = Offload()

    fresh: defaultdict[str, list[Tensor]] = defaultdict(list)
    """{running block: the maps of its layers}: hooks of layers run before those of their block."""
    account = Account(pipe, hookpoints, timesteps, ["cond"])

    def note_grid(block: str, moment: Moment, _after: Tensor) -> None:
        captured.grids[block] = moment.grid
        if "cond" not in moment.branches():
            return
        number = account.enter(clock, block, "cond")
        if maps := fresh.pop(block, None):  # the mean of the layers leaves the device once
            mean = offload(torch.stack(maps).mean(dim=0), torch.float32)
            parts[block, moment.timestep].append((number, mean))

    def due(clock: Clock) -> Collection[str]:
        return hookpoints if clock.now in wanted and "cond" in clock.branches() else ()

    with ExitStack() as stack:
        clock = stack.enter_context(
            hook_blocks(pipe, hookpoints, note_grid, timesteps=wanted, layout=layout, due=due)
        )

        def hook_for(block: str) -> Callable[..., None]:
            def hook(attention: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                if clock.now in wanted and "cond" in (branches := clock.branches()):
                    adapter, positions = clock.adapter, math.prod(clock.size)
                    fresh[block].append(
                        _layer_map(attention, args, kwargs, branches, positions, adapter.registers)
                    )

            return hook

        for block, info in infos.items():
            attentions = text_attentions(denoiser, info.path)
            if not attentions:
                raise UserError(
                    f"{info.path} has no cross-attention; name a block whose layers read the prompt"
                )
            for attention in attentions:
                handle = attention.register_forward_pre_hook(hook_for(block), with_kwargs=True)
                stack.callback(handle.remove)
        yield captured
    check_visited(timesteps, clock)
    account.close()
    offload.wait()
    captured.maps.update((key, in_order(calls)) for key, calls in parts.items())


def _layer_map(
    attention: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    branches: Branches,
    positions: int,
    registers: int,
) -> Float[Tensor, "pictures positions tokens"]:
    """The conditional branch's probabilities in one layer, from the inputs of its call; mean over
    heads. In a joint layer, the first `positions` tokens of the picture's stream are the picture's.
    `registers` tokens before the prompt's are left out.
    """
    given = named_arguments(attention, args, kwargs)
    queries, words = (
        given[name] if name in given else given[f"norm_{name}"]  # HiDream
        for name in ("hidden_states", "encoder_hidden_states")
    )
    rows, rotary = rows_of("cond", len(queries), branches), given.get("image_rotary_emb")
    if isinstance(words, tuple):  # an IP-Adapter adds tokens of pictures
        words = words[0]
    words = words[rows, registers:]
    if any(getattr(attention, name, None) is not None for name in TEXT_KEYS):
        tokens = registers + words.shape[1]
        mask, pairs = given.get("encoder_hidden_states_mask"), given.get("attention_mask")
        if mask is not None:
            mask = mask[rows, None].bool()
        elif pairs is not None and pairs.ndim == 4:  # Chroma: of all pairs, the text first
            mask = pairs[rows, 0, tokens : tokens + positions, registers:tokens]
        picture = queries[rows, :positions]
        return joint_attention(attention, picture, words, rotary=rotary, mask=mask)
    mask = given.get("attention_mask")
    mask = None if mask is None else mask[rows]
    return cross_attention(attention, queries[rows], words, mask=mask, rotary=rotary).mean(dim=1)


def cross_attention(
    attention: Any,
    queries: Float[Tensor, "rows positions d_in"],
    words: Float[Tensor, "rows tokens d_text"],
    *,
    mask: Float[Tensor, "rows 1 tokens"] | None = None,
    rotary: Any = None,
) -> Float[Tensor, "rows heads positions tokens"]:
    """softmax(Q K^T / sqrt(d_head) + mask) over tokens, with the layer's projections, in
    float32. `rotary` turns the queries by their places (HunyuanDiT)."""
    if getattr(attention, "norm_cross", None):
        words = attention.norm_encoder_hidden_states(words)
    query = _normed(attention.to_q(queries), attention.heads, attention.norm_q)
    key = _normed(attention.to_k(words), attention.heads, attention.norm_k)
    if rotary is not None:
        from diffusers.models.embeddings import apply_rotary_emb

        turned = apply_rotary_emb(query, rotary)
        assert isinstance(turned, Tensor)
        query = turned
    scores = query.float() @ key.float().transpose(-1, -2) * query.shape[-1] ** -0.5
    return (scores if mask is None else scores + mask[:, None].float()).softmax(dim=-1)


def joint_attention(
    attention: Any,
    picture: Float[Tensor, "rows positions d_in"],
    words: Float[Tensor, "rows tokens d_in"],
    *,
    rotary: Any = None,
    mask: Tensor | None = None,
) -> Float[Tensor, "rows positions tokens"]:
    """The attention of picture positions to the text in a joint layer, mean over heads, in float32.

    softmax(Q K^T / sqrt(d_head)) over the text's keys only: the text's share of joint attention,
    scaled to sum to 1. Heads are computed one by one to save memory.

    Args:
        rotary: as the layer takes it; for the picture's tokens and the text's.
        mask: `[rows, 1 or positions, tokens]`. False takes a key away. Numbers are added to the
            products, as the layer does it (Chroma: 1, and 0 for most padding). None: all are alike.
    """
    query, key = _rotated(*_projected(attention, picture, words), rotary)
    added: Tensor | float = 0.0
    if mask is not None:
        added = mask.float() if mask.is_floating_point() else mask.float().log()
    total = torch.zeros(len(picture), picture.shape[1], words.shape[1], device=picture.device)
    for head in range(attention.heads):
        products = query[:, head].float() @ key[:, head].float().transpose(-1, -2)
        total += (products * query.shape[-1] ** -0.5 + added).softmax(dim=-1)
    return total / attention.heads


def _projected(attention: Any, picture: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """Queries of the picture and keys of the text, [rows, heads, n, d_head], normalised."""
    heads: int = attention.heads
    if hasattr(attention, "to_k_t"):  # HiDream
        return (
            _normed(attention.to_q(picture), heads, attention.q_rms_norm),
            _normed(attention.to_k_t(words), heads, attention.k_rms_norm_t),
        )
    return (
        _normed(attention.to_q(picture), heads, attention.norm_q),
        _normed(attention.add_k_proj(words), heads, getattr(attention, "norm_added_k", None)),
    )


def _rotated(query: Tensor, key: Tensor, rotary: Any) -> tuple[Tensor, Tensor]:
    """Queries and keys with rotary positions, in the form that a family has them in.

    FLUX: (cos, sin) of all tokens, the text's first. Qwen-Image: complex numbers, (the picture's,
    the text's). HiDream: rotations of the picture's tokens; the text is at place 0, so its keys
    stay.
    """
    positions, tokens = query.shape[2], key.shape[2]
    if rotary is None:
        return query, key
    if isinstance(rotary, Tensor):
        from diffusers.models.transformers.transformer_hidream_image import apply_rope

        turned = query.transpose(1, 2)
        turned = apply_rope(turned, turned, rotary[:1, :positions])[0]
        return turned.transpose(1, 2), key
    if rotary[0].is_complex():
        return _turned(query, rotary[0][:positions]), _turned(key, rotary[1][:tokens])
    from diffusers.models.embeddings import apply_rotary_emb

    for_words: Any = tuple(part[:tokens] for part in rotary)
    for_picture: Any = tuple(part[tokens : tokens + positions] for part in rotary)
    query, key = apply_rotary_emb(query, for_picture), apply_rotary_emb(key, for_words)  # type: ignore[assignment]
    return query, key


def _turned(heads: Tensor, turns: Tensor) -> Tensor:
    """Pairs of neighbouring channels as complex numbers, times `turns`, [n, d_head / 2]."""
    pairs = torch.view_as_complex(heads.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).type_as(heads)


def _normed(
    projected: Tensor, heads: int, norm: nn.Module | None
) -> Float[Tensor, "rows heads n d_head"]:
    """Projections by head, normalised head by head or, where the layer does, across heads."""
    weight = getattr(norm, "weight", None)
    if norm is not None and weight is not None and len(weight) == projected.shape[-1]:
        return norm(projected).unflatten(-1, (heads, -1)).transpose(1, 2)
    split = projected.unflatten(-1, (heads, -1)).transpose(1, 2)
    return split if norm is None else norm(split)


def word_tokens(tokenizer: Any, prompt: str, word: str, *, limit: int | None = None) -> list[int]:
    """The positions of `word`'s tokens in the encoded prompt, start token included; [] if none.

    `limit` is the length to which the pipeline cuts prompts. None: the tokenizer's own.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            f"{type(tokenizer).__name__} gives no character offsets; use a fast tokenizer "
            "(transformers 5)"
        )
    spans = word_spans(word, prompt)
    if not spans:
        return []
    most = limit or tokenizer.model_max_length
    encoded = tokenizer(prompt, truncation=True, max_length=most, return_offsets_mapping=True)
    return [
        position
        for position, (start, end) in enumerate(encoded["offset_mapping"])
        if any(start < stop and end > begin for begin, stop in spans)
    ]


_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
"""Scripts that write words without spaces: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""


def word_spans(word: str, text: str) -> list[tuple[int, int]]:
    """(start, end) of all places of `word` as a whole word in `text`, in any case.

    Letters of scripts without spaces do not join words: 猫 is in 一只猫坐着, and cat is in 一只cat.
    Example: "cat" is at (2, 5) in "a cat" and nowhere in "concatenate".
    """
    parts = word.split()
    if not parts:
        return []
    letter = rf"[^\W{_UNSPACED}]"
    unspaced = re.compile(f"[{_UNSPACED}]")
    before = "" if unspaced.match(parts[0][0]) else rf"(?<!{letter})"
    after = "" if unspaced.match(parts[-1][-1]) else rf"(?!{letter})"
    pattern = before + r"\s+".join(map(re.escape, parts)) + after
    return [match.span() for match in re.finditer(pattern, text, flags=re.IGNORECASE)]


def mean_map(
    captured: CapturedAttention, timestep: float, *, grid: Grid
) -> Float[Tensor, "pictures positions tokens"]:
    """The mean over all blocks' maps at a timestep, resized to one `grid` (bilinear)."""
    resized = []
    for (block, at), maps in captured.maps.items():
        if at == timestep:
            channels = maps.transpose(1, 2).unflatten(-1, captured.grids[block])
            mode = "bilinear" if len(grid) == 2 else "trilinear"
            resized.append(F.interpolate(channels, size=grid, mode=mode, align_corners=False))
    if not resized:
        raise UserError(f"no attention was recorded at timestep {timestep:g}; capture it there")
    return torch.stack(resized).mean(dim=0).flatten(2).transpose(1, 2)
