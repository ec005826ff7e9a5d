"""Splits by hash: a caption's split depends only on its text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from diffusae.errors import UserError, together
from diffusae.prompts.prompt_set import SPLITS
from diffusae.prompts.selection import normalised


class HashSplit:
    """Distributes captions to splits by their SHA-256, in given shares.

    Captions that differ only in case and white space fall into the same split. Other files, orders
    or filters change no split; other shares or seeds do.

    Args:
        shares: {split: share of all captions}, with the sum 1.
        seed: another seed gives other splits.

    Raises:
        UserError: a split is unknown, a share is outside [0, 1], or the sum is not 1.
    """

    def __init__(self, shares: Mapping[str, Any], *, seed: int = 0) -> None:
        if not isinstance(shares, Mapping):
            raise UserError(
                f"prompts.shares={shares} must give one share per split, such as {{train: 0.8, "
                "test: 0.2}"
            )
        faults = [
            f"prompts.shares.{split}: unknown split; known: {', '.join(SPLITS)}"
            for split in shares
            if split not in SPLITS
        ]
        faults += [
            f"prompts.shares.{split}={share} must be a number from 0 to 1"
            for split, share in shares.items()
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1
        ]
        if not isinstance(seed, int) or isinstance(seed, bool):
            faults.append(f"prompts.split_seed={seed} must be a whole number")
        if not faults and abs(sum(shares.values()) - 1) > 1e-9:
            total = f"{sum(shares.values()):g}"
            faults.append(f"prompts.shares add up to {total}; make them add up to 1")
        together(faults)
        self.shares = {split: float(shares[split]) for split in SPLITS if shares.get(split)}
        self._ends = list(accumulate(self.shares.values()))
        self._salt = f"{seed}\n"

    def __call__(self, text: str) -> str:
        """The caption's split.

        Example: shares of 0.8 and 0.2 end at 0.8 and 1.0. A hash whose first 48 bits make 0.85 of
        2^48 gives the second split.
        """
        digest = hashlib.sha256((self._salt + normalised(text)).encode()).digest()
        place = int.from_bytes(digest[:6]) / (1 << 48)  # exact in a float, and below 1
        for split, end in zip(self.shares, self._ends, strict=True):
            if place < end:
                return split
        return list(self.shares)[-1]  # rounding may leave the sum just below 1
