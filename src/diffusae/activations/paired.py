"""The batches of two streams of one collection, beside each other: of the same pictures and
positions, in the same order.

The order of a stream depends on seed, epoch, sizes and shards (`diffusae.activations.order`), and
these are the same for both. So two readers that run in step give the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import IterableDataset

from diffusae.activations.batches import SequentialBatches, ShuffledBatches
from diffusae.activations.schema import Stream
from diffusae.activations.settings import BufferOn
from diffusae.errors import UserError

Pairs = Float[Tensor, "batch d_in+d_target"]


def check_pair(stream: Stream, target: Stream) -> None:
    """Raise `UserError` unless two streams have the same positions of the same pictures."""
    if stream.grid != target.grid or stream.folder == target.folder:
        (height, width), (own_height, own_width) = target.grid, stream.grid
        raise UserError(
            f"the target {target.folder} ({height} x {width} positions) must be another stream than"
            f" {stream.folder} ({own_height} x {own_width}), with the same positions of the same"
            " pictures; choose another sae.target"
        )


class PairedShuffled(IterableDataset[Pairs]):
    """`ShuffledBatches` of an input, and beside each vector that of the target.

    Its state is that of the input: both readers are at the same place.
    """

    def __init__(self, inputs: ShuffledBatches, targets: ShuffledBatches) -> None:
        self.inputs, self.targets = inputs, targets
        self.buffer_on: BufferOn = inputs.buffer_on

    @property
    def epoch(self) -> int:
        return self.inputs.epoch

    @property
    def sampler(self) -> Self:
        """Itself: Lightning calls `set_epoch` on a loader's `sampler`."""
        return self

    def __len__(self) -> int:
        return len(self.inputs)

    def __iter__(self) -> Iterator[Pairs]:
        return (torch.cat(pair, dim=1) for pair in zip(self.inputs, self.targets, strict=True))

    def first_batch(self) -> Pairs:
        """As `ShuffledBatches.first_batch`."""
        return torch.cat([self.inputs.first_batch(), self.targets.first_batch()], dim=1)

    def share(self, rank: int, world_size: int) -> None:
        """As `ShuffledBatches.share`."""
        for one in (self.inputs, self.targets):
            one.share(rank, world_size)

    def place_buffer(self, device: torch.device) -> None:
        """As `ShuffledBatches.place_buffer`; there are two buffers."""
        for one in (self.inputs, self.targets):
            one.place_buffer(device)

    def set_epoch(self, epoch: int) -> None:
        """As `ShuffledBatches.set_epoch`."""
        for one in (self.inputs, self.targets):
            one.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """The place of both."""
        return self.inputs.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next pass of both continue there."""
        for one in (self.inputs, self.targets):
            one.load_state_dict(state)


class PairedSequential(IterableDataset[Pairs]):
    """`SequentialBatches` of an input, and beside each vector that of the target."""

    def __init__(self, inputs: SequentialBatches, targets: SequentialBatches) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __iter__(self) -> Iterator[Pairs]:
        return (torch.cat(pair, dim=1) for pair in zip(self.inputs, self.targets, strict=True))

    def place_buffer(self, device: torch.device, wanted: BufferOn) -> None:
        """As `SequentialBatches.place_buffer`."""
        for one in (self.inputs, self.targets):
            one.place_buffer(device, wanted)
