"""Stored codes: the active latents at every position of a picture, and their values."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Int, UInt, UInt8
from safetensors.numpy import save

from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import REMEDY, samples_in
from diffusae.activations.schema import CodeStream
from diffusae.errors import UserError

MOST_UNPACKED = 2**28
"""Bytes of one picture that are unpacked: 16,384 active latents at each of 4,096 positions."""


@dataclass(frozen=True, eq=False)
class PictureCodes:
    """The codes of one picture. Entries that are not active are left out.

    Example: two positions, where latents 2 and 7 are active at the first one and none at the
    second, have counts [2, 0], indices [2, 7] and values such as [3.0, 0.5].

    Attributes:
        counts: active latents of every position.
        indices: the active latents, position after position, within one ascending. (Codes that
            were stored by earlier versions have no order within a position.)
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
        order = np.argsort(indices, axis=1)
        values, indices = (np.take_along_axis(part, order, axis=1) for part in (values, indices))
        rounded = np.minimum(values, np.finfo(dtype).max).astype(dtype)
        active = rounded > 0
        counts = active.sum(axis=1)
        return cls(
            counts.astype(np.min_scalar_type(counts.max(initial=0))),
            indices[active].astype(np.min_scalar_type(d_sae - 1)),
            rounded[active],
        )

    def to_bytes(self) -> bytes:
        """A safetensors file of `counts`, and of all else compressed."""
        steps = self.indices.copy()
        first = np.cumsum(self.counts, dtype=np.int64) - self.counts
        steps[1:] -= self.indices[:-1]
        starts = first[self.counts > 0]
        steps[starts] = self.indices[starts]
        data = zlib.compress(_planes(steps) + _planes(self.values), level=1)
        return save({"counts": self.counts, "packed": np.frombuffer(data, np.uint8)})

    @classmethod
    def unpacked(
        cls,
        counts: UInt[np.ndarray, " positions"],
        packed: UInt8[np.ndarray, " bytes"],
        *,
        d_sae: int,
        dtype: np.dtype,
    ) -> Self:
        """Codes as `to_bytes` packs them; no more is unpacked than `counts` ask for.

        Raises:
            ValueError: they are not so.
        """
        kinds = (np.min_scalar_type(d_sae - 1), dtype)
        if counts.dtype.kind != "u" or packed.dtype != np.uint8 or counts.max(initial=0) > d_sae:
            raise ValueError(f"counts must be unsigned numbers up to {d_sae}, and packed bytes")
        active = int(counts.sum(dtype=np.int64))
        sizes = [active * kind.itemsize for kind in kinds]
        if sum(sizes) > MOST_UNPACKED:
            raise ValueError(f"{sum(sizes)} bytes of codes are more than {MOST_UNPACKED}")
        reading = zlib.decompressobj()
        try:
            data = reading.decompress(packed.tobytes(), sum(sizes) + 1)
        except zlib.error as error:
            raise ValueError(f"packed is damaged ({error})") from error
        if len(data) != sum(sizes) or not reading.eof:
            raise ValueError(f"packed does not hold {active} indices and values")
        steps, values = (
            np.frombuffer(part, np.uint8).reshape(kind.itemsize, active).T.copy().view(kind)[:, 0]
            for part, kind in zip((data[: sizes[0]], data[sizes[0] :]), kinds, strict=True)
        )
        sums = np.cumsum(steps, dtype=np.int64)
        present = counts[counts > 0].astype(np.int64)
        starts = np.cumsum(present) - present
        indices = sums - np.repeat((sums - steps)[starts], present)
        if active and indices.max() >= d_sae:
            raise ValueError(f"a latent is none of {d_sae}")
        return cls(counts, indices.astype(kinds[0]), values)

    def dense(self, d_sae: int) -> Float[np.ndarray, "positions d_sae"]:
        """The value of every latent at every position, float32."""
        dense = np.zeros((len(self.counts), d_sae), dtype=np.float32)
        dense[np.repeat(np.arange(len(self.counts)), self.counts), self.indices] = self.values
        return dense


def _planes(numbers: np.ndarray) -> bytes:
    """The lowest byte of all numbers, then the next: equal bytes lie together, and compress well.

    Example: the uint16 numbers 1 and 515 are the bytes 1, 3, 0, 2.
    """
    return numbers.view(np.uint8).reshape(-1, numbers.itemsize).T.tobytes()


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
    shards = manifest.shards(codes.folder, split)
    for shard, sample in samples_in(Path(root), shards, kinds=("safetensors",)):
        yield (
            sample["__key__"],
            codes_in(sample["safetensors"], manifest, codes, f"{shard.path}: {sample['__key__']}"),
        )


def codes_in(
    tensors: dict[str, Any], manifest: Manifest, codes: CodeStream, where: str
) -> PictureCodes:
    """The codes of one picture as its sample stores them.

    Raises:
        UserError: they are none of this stream; `where` names the sample.
    """
    (positions,) = (s.positions for s in manifest.streams if s.folder == codes.stream)
    try:
        if tensors.keys() == {"counts", "packed"}:
            about = {"d_sae": codes.d_sae, "dtype": manifest.numbers.read}
            tensors = vars(PictureCodes.unpacked(**tensors, **about))
        fault = _fault(tensors, positions=positions, d_sae=codes.d_sae)
    except ValueError as error:
        fault = str(error)
    if fault:
        raise UserError(f"{where}: {fault}; {REMEDY}")
    return PictureCodes(**tensors)


def _fault(tensors: dict[str, Any], *, positions: int, d_sae: int) -> str | None:
    """What keeps tensors from being the codes of a picture."""
    if tensors.keys() != {"counts", "indices", "values"}:
        return f"it holds {sorted(tensors)}, and codes are counts and packed"
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
