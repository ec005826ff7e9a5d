"""How the numbers of updates are stored: as float16, bfloat16 or float32.

NumPy and the .npy format have no bfloat16: it is stored as uint16, whose 16 bits are those of the
bfloat16 number (the upper half of a float32), and readers give it as float32.
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
    """One way to store them.

    Attributes:
        name: as `activations.dtype` and the manifest call it.
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
        """Of one number."""
        return self.stored.itemsize

    def encode(self, array: np.ndarray) -> np.ndarray:
        """Any floats as they are stored, rounded to the nearest; one beyond the range becomes
        infinite.
        """
        if self.stored == self.read:
            with np.errstate(over="ignore"):
                return np.ascontiguousarray(array, dtype=self.stored)
        import torch

        wide = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
        return wide.to(self.tensor).view(torch.uint16).numpy()

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """Stored numbers as `read`: a view where the types are one."""
        if self.stored == self.read:
            return stored
        return (stored.astype(np.uint32) << 16).view(np.float32)


_KNOWN = {
    each.name: each
    for each in (
        StoredNumbers("float16", np.dtype(np.float16), np.dtype(np.float16)),
        StoredNumbers("bfloat16", np.dtype(np.uint16), np.dtype(np.float32)),
        StoredNumbers("float32", np.dtype(np.float32), np.dtype(np.float32)),
    )
}
DEFAULT: NumbersName = "float16"
"""Of collections that name no type: all of earlier versions."""


def stored_numbers(name: str) -> StoredNumbers:
    """The type called so; `UserError` for an unknown one."""
    if name not in _KNOWN:
        raise unknown("activations.dtype", name, get_args(NumbersName))
    return _KNOWN[name]
