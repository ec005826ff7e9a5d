"""What one call of the model gives: made on one thread, turned into records on another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffusae.activations.schema import CollectedSample


@dataclass(frozen=True)
class Batch:
    """Consecutive prompts after their call of the model.

    Attributes:
        size: its number of prompts.
        records: one record a prompt, in order. It is called once, on the thread that writes, while
            the model is at work for the next batch. So it must not use the model or its tokenizers.
    """

    size: int
    records: Callable[[], Iterator[CollectedSample]]


def numbers_of(updates: Tensor) -> np.ndarray:
    """A tensor of the CPU as NumPy's numbers, which have no bfloat16."""
    return (updates.float() if updates.dtype == torch.bfloat16 else updates).numpy()
