"""The tokens of the picture or of the text in a module's call: cut out of a sequence that may hold
both, and put back.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffusae.backbone.blocks import Grid, HookpointInfo, Tokens
from diffusae.capture.clock import Clock
from diffusae.errors import UserError


@dataclass(frozen=True)
class Span:
    """A run of `count` tokens in every row of a sequence.

    Args:
        starts: the place of its first token, row by row.
        count: the same for all rows.
    """

    starts: Sequence[int]
    count: int

    def cut(self, sequence: Float[Tensor, "rows tokens d"]) -> Float[Tensor, "rows count d"]:
        """Its tokens; the sequence itself if they are all of it."""
        if self.count == sequence.shape[1]:
            return sequence
        if len(set(self.starts)) == 1:
            return sequence[:, self.starts[0] : self.starts[0] + self.count]
        places = torch.tensor(self.starts, device=sequence.device)[:, None] + torch.arange(
            self.count, device=sequence.device
        )
        return sequence.take_along_dim(places[..., None], dim=1)

    def paste(
        self, sequence: Float[Tensor, "rows tokens d"], tokens: Float[Tensor, "rows count d"]
    ) -> Float[Tensor, "rows tokens d"]:
        """A new sequence with other tokens in this span."""
        if self.count == sequence.shape[1]:
            return tokens
        pasted = sequence.clone()
        for row, start in enumerate(self.starts):
            pasted[row, start : start + self.count] = tokens[row]
        return pasted


def span(
    tokens: Tokens, grid: Grid, clock: Clock, sequence: Float[Tensor, "rows tokens d"]
) -> Span:
    """Where the picture's tokens, one a position of `grid`, are in a block's sequence.

    Example: after 3 and 5 tokens of text in two rows, the starts are (3, 5).

    Raises:
        UserError: the sequence does not hold them there.
    """
    rows, length, _ = sequence.shape
    count = math.prod(grid)
    starts = [0] * rows
    if tokens.within == "after_text":
        starts = clock.adapter.text_lengths(clock.given, rows)
    fits = length == count if tokens.within == "whole" else max(starts) + count <= length
    if not fits:
        shape = " x ".join(map(str, grid))
        raise UserError(
            f"the block holds {length} tokens, which cannot be the picture's {count} positions "
            f"({shape}), {tokens.within.replace('_', ' ')}: its sequence is not the one that "
            "diffusae knows of this family; hook another block"
        )
    return Span(starts, count)


def text_span(
    tokens: Tokens, grid: Grid, clock: Clock, sequence: Float[Tensor, "rows tokens d"]
) -> tuple[Span, list[int]]:
    """Where the text's tokens are in a sequence, and how many of them are every row's own.

    Args:
        grid: positions of the picture, which come first in a sequence `before_text`.

    Raises:
        UserError: the sequence does not hold them there.
    """
    rows, length, _ = sequence.shape
    lengths = clock.adapter.text_lengths(clock.given, rows)
    start = clock.adapter.text_start(grid) if tokens.within == "before_text" else 0
    count = length if tokens.within == "whole" else max(lengths)
    if start + max(count, *lengths) > length:
        raise UserError(
            f"the block holds {length} tokens, which cannot hold {max(lengths)} of the text, "
            f"{tokens.within.replace('_', ' ')}: its sequence is not the one that diffusae knows "
            "of this family; hook another block"
        )
    return Span([start] * rows, count), lengths


class Vectors:
    """The vectors of one stream in one tensor of a running call: [rows, positions, d_in].

    Args:
        tokens: where they are in the tensor, which is a sequence or a feature map.
    """

    def __init__(self, info: HookpointInfo, tokens: Tokens, clock: Clock, tensor: Tensor) -> None:
        self.lengths: list[int] | None = None
        """Own tokens of every row's text; None: of a picture."""
        self._span: Span | None = None
        self._own: Tensor | None = None
        if tensor.ndim == 4:
            self.grid: Grid = tuple(tensor.shape[-2:])
        elif info.stream == "picture":
            self.grid = info.grid(*clock.size)
            self._span = span(tokens, self.grid, clock, tensor)
        else:
            picture = info.grid(*clock.size)
            self._span, self.lengths = text_span(tokens, picture, clock, tensor)
            self.grid = (self._span.count,)
            if min(self.lengths) < self._span.count:
                places = torch.arange(self._span.count, device=tensor.device)
                ends = torch.tensor(self.lengths, device=tensor.device)
                self._own = (places < ends[:, None])[..., None]

    def of(self, tensor: Tensor) -> Float[Tensor, "rows positions d_in"]:
        """The vectors in a tensor of this form; 0 beyond a row's own text."""
        if self._span is None:
            return to_positions(tensor)
        vectors = self._span.cut(tensor)
        return vectors if self._own is None else torch.where(self._own, vectors, 0)

    def added(self, tensor: Tensor, change: Float[Tensor, "rows positions d_in"]) -> Tensor:
        """A new tensor with a change added; what lies beyond a row's own text stays."""
        if self._span is None:
            return tensor + change.transpose(1, 2).unflatten(2, self.grid)
        change = change if self._own is None else torch.where(self._own, change, 0)
        return self._span.paste(tensor, self._span.cut(tensor) + change)


def to_positions(images: Float[Tensor, "rows d_in h w"]) -> Float[Tensor, "rows h*w d_in"]:
    """Feature maps as one vector per position, row-major over (h, w)."""
    return images.flatten(2).transpose(1, 2)


def call_argument(
    module: nn.Module, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """An argument of a module's call by its name."""
    place = _place(module, name, kwargs)
    return kwargs[name] if place is None else args[place]


def with_argument(
    module: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a module's call with another value of one of them."""
    place = _place(module, name, kwargs)
    if place is None:
        return args, kwargs | {name: value}
    return (*args[:place], value, *args[place + 1 :]), kwargs


def _place(module: nn.Module, name: str, kwargs: Mapping[str, Any]) -> int | None:
    """The place of an argument among those without names; None: it came with its name."""
    if name in kwargs:
        return None
    parameters = list(inspect.signature(type(module).forward).parameters)[1:]  # without self
    return parameters.index(name) if name in parameters else 0  # an MLP's only one: `x`, `input`


def returned(output: Any, tokens: Tokens, before: Tensor | None) -> Tensor:
    """The tensor of a stream in what a module returns: that tensor alone, a tuple, or a
    Transformer2DModelOutput.

    Raises:
        UserError: its shape is not that of the block's input `before`.
    """
    after = output
    if not isinstance(output, Tensor):
        after = output[tokens.output] if isinstance(output, tuple) else output.sample
    if not isinstance(after, Tensor) or (before is not None and after.shape != before.shape):
        raise UserError(
            "the block returns nothing of its input's shape where its adapter says, so it has no "
            "update; hook another, or name its tokens in the adapter's `blocks`"
        )
    return after


def with_returned(output: Any, tokens: Tokens, tensor: Tensor) -> Any:
    """`output` in the same form, with the tensor of a stream replaced."""
    if isinstance(output, Tensor):
        return tensor
    if not isinstance(output, tuple):
        return type(output)(sample=tensor)
    parts = list(output)
    parts[tokens.output] = tensor
    return tuple(parts)
