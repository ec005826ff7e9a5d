"""What one call of the model gives: made on one thread, turned into records on another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusae.activations.schema import CollectedSample
from diffusae.prompts.prompt_set import Prompt


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


def batches_of(prompts: Sequence[Prompt], size: int) -> Iterator[Sequence[Prompt]]:
    """Consecutive prompts, `size` at once."""
    return (prompts[start : start + size] for start in range(0, len(prompts), size))


def sample_of(prompt: Prompt, updates: Mapping[str, np.ndarray], **others: Any) -> CollectedSample:
    """What is recorded of a prompt's picture or text."""
    about = {"image_id": prompt.image_id, "seed": prompt.seed, "split": prompt.split}
    return CollectedSample(prompt=prompt.text, updates=updates, **about, **others)


def numbers_of(updates: Tensor) -> np.ndarray:
    """A tensor of the CPU as NumPy's numbers, which have no bfloat16."""
    return (updates.float() if updates.dtype == torch.bfloat16 else updates).numpy()
