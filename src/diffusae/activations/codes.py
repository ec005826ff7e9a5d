"""Stored codes: the active latents at every position of a picture, and their values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Int, UInt
from safetensors.numpy import save

from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import REMEDY, samples_in
from diffusae.activations.schema import CodeStream
from diffusae.errors import UserError


@dataclass(frozen=True, eq=False)
class PictureCodes:
    """The codes of one picture. Entries that are not active are left out.

    Example: two positions, where latents 7 and 2 are active at the first one and none at the
    second, have counts [2, 0], indices [7, 2] and values such as [0.5, 3.0].

    Attributes:
        counts: active latents of every position.
        indices: the active latents, position after position, within one in no particular order.
        values: theirs, above 0, in data units; float16 where updates are, else float32.
    """

    counts: UInt[np.ndarray, " positions"]
    indices: UInt[np.ndarray, " active"]
    values: Float[np.ndarray, " active"]

    @classmethod
    def of(
        cls,
        values: Float[np.ndarray, "positions k"],
        indices: Int[np.ndarray, "positions k"],
        *,
        d_sae: int,
        dtype: np.dtype,
    ) -> Self:
        """Codes as an autoencoder gives them, rounded to `dtype`. A value that rounds to 0 is not
        active; one beyond the range becomes the largest number.
        """
        rounded = np.minimum(values, np.finfo(dtype).max).astype(dtype)
        active = rounded > 0
        counts = active.sum(axis=1)
        return cls(
            counts.astype(np.min_scalar_type(counts.max(initial=0))),
            indices[active].astype(np.min_scalar_type(d_sae - 1)),
            rounded[active],
        )

    def to_bytes(self) -> bytes:
        """A safetensors file."""
        return save(vars(self))

    def dense(self, d_sae: int) -> Float[np.ndarray, "positions d_sae"]:
        """The value of every latent at every position, float32."""
        dense = np.zeros((len(self.counts), d_sae), dtype=np.float32)
        dense[np.repeat(np.arange(len(self.counts)), self.counts), self.indices] = self.values
        return dense


def padded(
    codes: Sequence[PictureCodes], positions: int
) -> tuple[Float[np.ndarray, "n positions k"], Int[np.ndarray, "n positions k"]]:
    """Values in float32 and indices in int64, with as many entries a position as the position with
    the most active latents (at least 1). What a position lacks is 0.
    """
    counts = np.array([one.counts for one in codes], dtype=np.int64).reshape(-1, positions)
    active = np.arange(max(1, counts.max(initial=0))) < counts[..., None]
    values, indices = np.zeros(active.shape, np.float32), np.zeros(active.shape, np.int64)
    if codes:
        values[active] = np.concatenate([one.values for one in codes])
        indices[active] = np.concatenate([one.indices for one in codes])
    return values, indices


def read_codes(
    root: Path | str, manifest: Manifest, codes: CodeStream, split: str
) -> Iterator[tuple[str, PictureCodes]]:
    """The image ids and codes of one split, shard after shard.

    Raises:
        UserError: a shard is missing or cut, or a member is no codes of this stream.
    """
    (positions,) = (s.positions for s in manifest.streams if s.folder == codes.stream)
    shards = manifest.shards(codes.folder, split)
    for shard, sample in samples_in(Path(root), shards, kinds=("safetensors",)):
        tensors = sample["safetensors"]
        if fault := _fault(tensors, positions=positions, d_sae=codes.d_sae):
            raise UserError(f"{shard.path}: sample {sample['__key__']!r}: {fault}; {REMEDY}")
        yield sample["__key__"], PictureCodes(**tensors)


def _fault(tensors: dict[str, Any], *, positions: int, d_sae: int) -> str | None:
    """What keeps tensors from being the codes of a picture."""
    if tensors.keys() != {"counts", "indices", "values"}:
        return f"it holds {sorted(tensors)}, and codes are counts, indices and values"
    counts, indices, values = (tensors[name] for name in ("counts", "indices", "values"))
    if counts.dtype.kind != "u" or indices.dtype.kind != "u" or values.dtype.kind != "f":
        return "counts and indices must be unsigned numbers, and values floats"
    active = int(counts.sum(dtype=np.int64)) if counts.shape == (positions,) else -1
    if not indices.shape == values.shape == (active,):
        return (
            f"counts {list(counts.shape)}, indices {list(indices.shape)} and values"
            f" {list(values.shape)} do not fit {positions} positions"
        )
    if active and (indices.max() >= d_sae or not (np.isfinite(values) & (values > 0)).all()):
        return f"a latent is none of {d_sae}, or a value is not above 0 and finite"
    return None
