"""The stored types of updates: float16, bfloat16 or float32.

NumPy and the .npy format have no bfloat16. It is stored as uint16 with the bits of the bfloat16
number (the upper half of a float32), and read as float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np

from diffusae.activations.settings import NumbersName
from diffusae.errors import unknown

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class StoredNumbers:
    """One type of stored numbers.

    Attributes:
        name: its name in `activations.dtype` and the manifest.
        stored: the type in the .npy file. read: the type that NumPy readers give.
    """

    name: NumbersName
    stored: np.dtype
    read: np.dtype

    @property
    def tensor(self) -> torch.dtype:
        """torch's type of the stored bits."""
        import torch

        return getattr(torch, self.name)

    @property
    def bytes(self) -> int:
        """Bytes of one number."""
        return self.stored.itemsize

    def encode(self, array: np.ndarray) -> np.ndarray:
        """Floats as they are stored, rounded to the nearest. Those beyond the range become
        infinite."""
        if self.stored == self.read:
            with np.errstate(over="ignore"):
                return np.ascontiguousarray(array, dtype=self.stored)
        import torch

        wide = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
        return wide.to(self.tensor).view(torch.uint16).numpy()

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """Stored numbers as type `read`; a view if both types are equal."""
        if self.stored == self.read:
            return stored
        return (stored.astype(np.uint32) << 16).view(np.float32)


_KNOWN = {
    numbers.name: numbers
    for numbers in (
        StoredNumbers("float16", np.dtype(np.float16), np.dtype(np.float16)),
        StoredNumbers("bfloat16", np.dtype(np.uint16), np.dtype(np.float32)),
        StoredNumbers("float32", np.dtype(np.float32), np.dtype(np.float32)),
    )
}
DEFAULT: NumbersName = "float16"
"""The type of collections that name none, as old versions wrote them."""


def stored_numbers(name: str) -> StoredNumbers:
    """The type of this name; `UserError` if it is unknown."""
    if name not in _KNOWN:
        raise unknown("activations.dtype", name, get_args(NumbersName))
    return _KNOWN[name]
