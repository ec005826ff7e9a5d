"""Settings of stored updates: how they are written, kept and streamed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from diffusae.activations.parts import Part
from diffusae.errors import UserError
from diffusae.settings import Settings, Within

NumbersName = Literal["float16", "bfloat16", "float32"]
Reader = Literal["mapped", "webdataset"]
BufferOn = Literal["auto", "device", "host"]
HeldOut = Literal["updates", "codes"]


@dataclass(frozen=True, kw_only=True)
class ActivationSettings(Settings, part="activations"):
    """The collection of updates and the batches that are made of it (`conf/activations`)."""

    dtype: NumbersName
    """Of stored updates."""
    group_size: Annotated[int, Within(1, 100_000)]
    """Pictures of a shard."""
    batch_size: Annotated[int, Within(1, 10_000_000)]
    """Vectors of a training step, over all processes."""
    buffer_vectors: Annotated[int, Within(1, 10**9)]
    """Vectors of the shuffle buffer."""
    buffer_on: BufferOn
    """Where the shuffle buffer lies: in the GPU's memory or in the host's."""
    reader: Reader
    workers: Annotated[int, Within(0, 1000)]
    """Processes that prepare batches of a buffer on the host ahead."""
    positions_per_image: Annotated[int, Within(1, 10**9)] | None
    """Stored of a training picture; None: its whole grid."""
    max_vectors: Annotated[int, Within(1, 10**15)] | None
    """The most training vectors of a cell; None: no limit."""
    store_training: bool
    """Whether the split `train` is stored; False: `train_online` makes it while it trains."""
    held_out: HeldOut
    """What is stored of the splits `dictionary`, `tune` and `test`: updates, or their codes by
    every autoencoder of the grid.
    """
    ignore_free_disk: bool
    verify: bool
    """Whether every shard is hashed before training."""
    source: str | None
    """Where a collection elsewhere is; None: it is collected here."""
    source_sha256: str | None
    """Of the manifest there; None: it is trusted as it comes."""
    cache_bytes: Annotated[int, Within(1, 10**15)] | None
    """The most bytes of its shards that are kept here; None: all."""
    fetch_attempts: Annotated[int, Within(1, 1000)]


@dataclass(frozen=True, kw_only=True)
class CollectSettings(Settings, part="collect"):
    """Collecting in several tasks (`conf/collect.yaml`)."""

    shard: str | None
    """The share of this task, "i/n"; None: all."""
    merge: str | list[str] | None
    """Directories of parts to bring together; None: the collection is made here."""

    @property
    def part(self) -> Part | None:
        """The share of this task; None: all."""
        return None if self.shard is None else Part.parse(self.shard)

    @property
    def sources(self) -> list[str]:
        """Directories of parts to bring together."""
        return [self.merge] if isinstance(self.merge, str) else self.merge or []

    @classmethod
    def _faults_of(cls, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from super()._faults_of(values)
        if values["shard"] is None:
            return
        if values["merge"] is not None:
            yield (
                "collect.merge",
                "collect.shard and collect.merge exclude each other; merge when all parts are"
                " collected",
            )
        try:
            Part.parse(values["shard"])
        except UserError as error:
            yield "collect.shard", str(error)
