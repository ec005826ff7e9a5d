"""The picture's tokens in a block's sequence, cut out and put back, by hand."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from diffusae.backbone.blocks import HookpointInfo, Tokens
from diffusae.capture.account import in_order
from diffusae.capture.sequences import (
    Span,
    Vectors,
    call_argument,
    returned,
    span,
    with_argument,
    with_returned,
)
from diffusae.errors import UserError

TWO_ROWS = torch.arange(2 * 5 * 1.0).reshape(2, 5, 1)
"""Row 0 holds the tokens 0 to 4, row 1 the tokens 5 to 9."""


def clock(*lengths: int) -> Any:
    """A running call whose rows hold this many tokens of text."""
    adapter = SimpleNamespace(
        text_lengths=lambda _given, rows: list(lengths)[:rows], text_start=math.prod
    )
    return SimpleNamespace(adapter=adapter, given={}, size=(1, 2))


def test_a_span_starts_where_the_text_of_its_row_ends() -> None:
    place = span(Tokens(within="after_text"), (1, 2), clock(1, 3), TWO_ROWS)
    assert (place.starts, place.count) == ([1, 3], 2)
    assert place.cut(TWO_ROWS).flatten(1).tolist() == [[1, 2], [8, 9]]


def text(tokens: Tokens, *lengths: int) -> Vectors:
    info = HookpointInfo("b.0", 1, text=tokens, stream="text")
    return Vectors(info, tokens, clock(*lengths), TWO_ROWS)


@pytest.mark.parametrize(
    ("within", "lengths", "seen"),
    [
        ("whole", (5, 5), [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]),
        ("whole", (2, 5), [[0, 1, 0, 0, 0], [5, 6, 7, 8, 9]]),  # a mask hides 2, 3, 4
        ("after_text", (1, 3), [[0, 0, 0], [5, 6, 7]]),  # 1 and 2 are the picture's
        ("before_text", (1, 3), [[2, 0, 0], [7, 8, 9]]),  # behind the picture's two
    ],
)
def test_the_texts_tokens_are_a_rows_own_and_0_beyond(within, lengths, seen) -> None:
    vectors = text(Tokens(within=within), *lengths)
    assert vectors.of(TWO_ROWS).squeeze(-1).tolist() == seen
    assert (vectors.grid, vectors.lengths) == ((len(seen[0]),), list(lengths))


def test_a_change_of_the_text_leaves_the_picture_and_the_padding_alone() -> None:
    vectors = text(Tokens(within="after_text"), 1, 3)
    edited = vectors.added(TWO_ROWS, torch.full((2, 3, 1), 100.0))
    assert edited.flatten(1).tolist() == [[100, 1, 2, 3, 4], [105, 106, 107, 8, 9]]


def test_a_text_that_a_sequence_cannot_hold_is_refused() -> None:
    with pytest.raises(UserError, match="cannot hold 4 of the text"):
        text(Tokens(within="before_text"), 1, 4)


def test_an_argument_is_replaced_where_it_was_given() -> None:
    class Block(nn.Module):
        def forward(self, hidden_states: Any, encoder_hidden_states: Any) -> None: ...

    block = Block()
    assert with_argument(block, "encoder_hidden_states", (1, 2), {}, 5) == ((1, 5), {})
    assert with_argument(block, "encoder_hidden_states", (1,), {"encoder_hidden_states": 2}, 5) == (
        (1,),
        {"encoder_hidden_states": 5},
    )
    assert with_argument(nn.Linear(1, 1), "hidden_states", (1,), {}, 5) == ((5,), {})


def test_a_picture_that_comes_first_starts_at_zero() -> None:
    place = span(Tokens(within="before_text"), (3, 1), clock(), TWO_ROWS)
    assert place.cut(TWO_ROWS).flatten(1).tolist() == [[0, 1, 2], [5, 6, 7]]


def test_a_span_is_put_back_and_the_text_stays_as_it_was() -> None:
    place, before = Span([1, 3], 2), TWO_ROWS.clone()
    pasted = place.paste(TWO_ROWS, -place.cut(TWO_ROWS))
    assert pasted.flatten(1).tolist() == [[0, -1, -2, 3, 4], [5, 6, 7, -8, -9]]
    assert torch.equal(TWO_ROWS, before)


def test_equal_starts_are_cut_without_a_copy() -> None:
    cut = Span([2, 2], 2).cut(TWO_ROWS)
    assert cut.flatten(1).tolist() == [[2, 3], [7, 8]]
    assert cut.data_ptr() == TWO_ROWS[:, 2:].data_ptr()
    assert Span([0, 0], 5).cut(TWO_ROWS) is TWO_ROWS


@pytest.mark.parametrize(
    ("tokens", "lengths"),
    [
        (Tokens(), ()),  # 5 tokens are not 2 x 2 positions
        (Tokens(within="after_text"), (1, 2)),  # 2 + 4 is more than 5
    ],
)
def test_a_sequence_that_cannot_hold_the_picture_is_refused(tokens: Tokens, lengths: Any) -> None:
    with pytest.raises(UserError, match=r"holds 5 tokens, .* 4 positions \(2 x 2\)"):
        span(tokens, (2, 2), clock(*lengths), TWO_ROWS)


def test_a_stream_is_read_and_replaced_at_its_place_among_the_outputs() -> None:
    text, picture, new = torch.ones(1, 2, 3), torch.full((1, 4, 3), 2.0), torch.zeros(1, 4, 3)
    assert returned((text, picture), Tokens(output=1), picture) is picture
    assert returned((picture, text), Tokens(output=0), picture) is picture
    assert with_returned((text, picture), Tokens(output=-1), new) == (text, new)
    with pytest.raises(UserError, match="nothing of its input's shape"):
        returned((picture, text), Tokens(output=1), picture)


def test_an_argument_is_read_by_name_wherever_it_stands() -> None:
    class Layer(nn.Module):
        def forward(self, first: int, second: int = 0) -> int:
            return first + second

    assert call_argument(Layer(), "second", (1, 2), {}) == 2
    assert call_argument(Layer(), "second", (1,), {"second": 3}) == 3


def test_texts_of_several_calls_stand_below_each_other_with_zeros_at_their_ends() -> None:
    first, second = torch.ones(1, 3, 2), torch.full((2, 1, 2), 5.0)
    both = in_order([(1, second), (0, first)])
    assert both[..., 0].tolist() == [[1, 1, 1], [5, 0, 0], [5, 0, 0]]
