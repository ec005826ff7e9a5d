"""The picture's tokens in a block's sequence, cut out and put back, by hand."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from diffusae.backbone.blocks import Tokens
from diffusae.capture.sequences import Span, call_argument, returned, span, with_returned
from diffusae.errors import UserError

TWO_ROWS = torch.arange(2 * 5 * 1.0).reshape(2, 5, 1)
"""Row 0 holds the tokens 0 to 4, row 1 the tokens 5 to 9."""


def clock(*lengths: int) -> Any:
    """A running call whose rows hold this many tokens of text."""
    adapter = SimpleNamespace(text_lengths=lambda _given, rows: list(lengths)[:rows])
    return SimpleNamespace(adapter=adapter, given={})


def test_a_span_starts_where_the_text_of_its_row_ends() -> None:
    place = span(Tokens(within="after_text"), (1, 2), clock(1, 3), TWO_ROWS)
    assert (place.starts, place.count) == ([1, 3], 2)
    assert place.cut(TWO_ROWS).flatten(1).tolist() == [[1, 2], [8, 9]]


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
