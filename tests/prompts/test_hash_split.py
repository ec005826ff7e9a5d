import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusae.errors import UserError
from diffusae.prompts.hash_split import HashSplit

SHARES = {"train": 0.6, "dictionary": 0.3, "test": 0.1}


def test_the_split_is_the_place_of_the_hash_among_the_shares():
    """By hand: the first 48 bits of SHA-256 of the seed, a line's end and the caption, as a
    fraction."""
    for text in ("a cat", "a red fish", "an owl"):
        place = int(hashlib.sha256(f"0\n{text}".encode()).hexdigest()[:12], 16) / 2**48
        expected = "train" if place < 0.6 else "dictionary" if place < 0.9 else "test"
        assert HashSplit(SHARES)(text) == expected


@given(st.text(min_size=1))
def test_case_white_space_and_the_order_of_the_shares_move_no_caption(text):
    split = HashSplit(SHARES)
    assert split(f"  {text}\n") == split(text) == HashSplit(dict(reversed(SHARES.items())))(text)
    assert split("a  Red fish") == split("a red Fish")


def test_splits_get_their_shares_and_another_seed_deals_anew():
    texts = [f"caption {n}" for n in range(20_000)]
    first, second = ([HashSplit(SHARES, seed=seed)(text) for text in texts] for seed in (0, 1))
    for split, share in SHARES.items():  # five standard deviations
        assert abs(first.count(split) / 20_000 - share) < 5 * (share * (1 - share) / 20_000) ** 0.5
    same = sum(a == b for a, b in zip(first, second, strict=True)) / 20_000
    assert abs(same - sum(s**2 for s in SHARES.values())) < 0.02  # as if drawn independently


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"train": 0.5, "test": 0.4}, "add up to 0.9"),
        ({"train": 1.5}, "train=1.5 must be a number from 0 to 1"),
        ({"exam": 1.0}, "exam: unknown split; known: train"),
        ({}, "add up to 0"),
    ],
)
def test_shares_that_are_no_shares_are_refused(shares, message):
    with pytest.raises(UserError, match=message):
        HashSplit(shares)
