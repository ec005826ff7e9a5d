"""The tokens of the picture in a block's call: cut out of a sequence that may hold the text too,
and put back.
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

from diffusae.backbone.blocks import Grid, Tokens
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


def call_argument(
    module: nn.Module, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """An argument of a module's call by its name."""
    if name in kwargs:
        return kwargs[name]
    parameters = list(inspect.signature(type(module).forward).parameters)[1:]  # without self
    return args[parameters.index(name)]


def returned(output: Any, tokens: Tokens, before: Tensor) -> Tensor:
    """The tensor of a stream in what a block returns: that tensor alone, a tuple, or a
    Transformer2DModelOutput.

    Raises:
        UserError: its shape is not that of the block's input.
    """
    after = output
    if not isinstance(output, Tensor):
        after = output[tokens.output] if isinstance(output, tuple) else output.sample
    if not isinstance(after, Tensor) or after.shape != before.shape:
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
