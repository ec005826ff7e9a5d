"""One stream as training and validation batches for Lightning, resumable in mid-epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import IterableDataset

from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import read_updates, require_sound
from diffusae.activations.schema import Stream
from diffusae.activations.shuffle import check_sizes, epoch_generator, sequential_batches, shuffled_batches
from diffusae.errors import UserError


class ShuffledBatches(IterableDataset[Float[Tensor, "batch d_in"]]):
    """Batches of shuffled vectors; the order depends on (seed, epoch) and the shards, and on nothing else.

    Shards are read in a permuted order and their vectors pass through a shuffle buffer, all in this process.
    Workers
    that read shards ahead could be added without another order: the permutations are drawn here.

    Its state is (epoch, batches given). After `load_state_dict` the next pass skips exactly the batches
    given, so a resumed run sees the same batches as an uninterrupted one. `len` is known, which keeps
    Lightning from fetching a batch ahead (a batch fetched ahead would count as given before it is trained
    on).
    """

    def __init__(
        self,
        root: Path | str,
        *,
        manifest: Manifest,
        stream: Stream,
        split: str,
        batch_size: int,
        buffer_vectors: int,
        seed: int,
        drop_last: bool = False,
    ) -> None:
        check_sizes(batch_size=batch_size, buffer_vectors=buffer_vectors)
        self.root, self.manifest, self.stream, self.split = Path(root), manifest, stream, split
        self.batch_size, self.buffer_vectors, self.seed = batch_size, buffer_vectors, seed
        self.drop_last = drop_last
        self._vectors = manifest.vectors(stream, split)
        if not len(self):
            raise UserError(
                f"split {split!r} has {self._vectors} vectors, less than a batch; lower batch_size"
            )
        self.epoch = 0
        self._given = 0
        self._skip = 0
        epoch_generator(seed, self.epoch)  # refuses a bad seed now

    @property
    def sampler(self) -> Self:
        """Itself: Lightning calls `set_epoch` on a loader's `sampler`."""
        return self

    def __len__(self) -> int:
        return (
            self._vectors // self.batch_size if self.drop_last else math.ceil(self._vectors / self.batch_size)
        )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; a pass to resume is forgotten where it was of another epoch."""
        if epoch != self.epoch:
            self.epoch, self._given, self._skip = epoch, 0, 0

    def __iter__(self) -> Iterator[Float[Tensor, "batch d_in"]]:
        # A generator: nothing is fixed before the first batch is asked for, because Lightning
        # makes the iterator first and sets the epoch afterwards.
        self._given, self._skip = self._skip, 0
        generator = epoch_generator(self.seed, self.epoch)
        shards = self.manifest.shards(self.stream.folder, self.split)
        order = torch.randperm(len(shards), generator=generator).tolist()
        samples = read_updates(
            self.root, self.manifest, self.stream, self.split, shards=[shards[index] for index in order]
        )
        batches = shuffled_batches(
            (sample.updates for sample in samples),
            batch_size=self.batch_size,
            # A buffer beyond the set would be memory for nothing; one row more gives the same order.
            buffer_vectors=min(self.buffer_vectors, max(self.batch_size, self._vectors + 1)),
            generator=generator,
            skip=self._given,
            drop_last=self.drop_last,
        )
        for batch in batches:
            self._given += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The epoch and the batches given in it; a whole epoch given is the next epoch's start."""
        given = max(self._given, self._skip)  # a pass to resume may not have begun yet
        epoch, batches = (self.epoch + 1, 0) if given >= len(self) else (self.epoch, given)
        return {"epoch": epoch, "batches": batches, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next pass go on after the batches given.

        Raises:
            UserError: the state was saved with another seed, batch size, buffer, `drop_last` or number of
            vectors.
        """
        ours = self._identity()
        changed = [
            f"{name} {state.get(name)} -> {value}" for name, value in ours.items() if state.get(name) != value
        ]
        if changed:
            raise UserError(
                f"the checkpoint's batches cannot be continued: {'; '.join(changed)}; restore these values"
            )
        self.epoch, self._given, self._skip = state["epoch"], 0, state["batches"]

    def _identity(self) -> dict[str, int]:
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "buffer_vectors": self.buffer_vectors,
            "drop_last": self.drop_last,
            "vectors": self._vectors,
        }


class SequentialBatches(IterableDataset[Float[Tensor, "batch d_in"]]):
    """Batches of vectors in the order of the shards."""

    def __init__(
        self, root: Path | str, *, manifest: Manifest, stream: Stream, split: str, batch_size: int
    ) -> None:
        check_sizes(batch_size=batch_size, buffer_vectors=batch_size)
        self.root, self.manifest, self.stream, self.split = Path(root), manifest, stream, split
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(self.manifest.vectors(self.stream, self.split) / self.batch_size)

    def __iter__(self) -> Iterator[Float[Tensor, "batch d_in"]]:
        samples = read_updates(self.root, self.manifest, self.stream, self.split)
        yield from sequential_batches((sample.updates for sample in samples), batch_size=self.batch_size)


class ActivationDataModule(pl.LightningDataModule):
    """The batches of one stream of a finished collection.

    Args:
        root: the collection's directory.
        block, t, conditioning: the stream's coordinates.
        batch_size: vectors a batch. buffer_vectors: vectors in the shuffle buffer.
        seed: fixes the training order together with the epoch.
        train_split, validation_split: names of the splits.
        drop_last: leave out a short last training batch.
        verify: compare the stream's shards with their hashes before the first batch.

    Raises:
        UserError: an unfinished collection, an unknown stream or split, a split without vectors, bad sizes.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        block: str,
        t: float,
        conditioning: str,
        batch_size: int,
        buffer_vectors: int,
        seed: int,
        train_split: str = "train",
        validation_split: str = "validation",
        drop_last: bool = False,
        verify: bool = True,
    ) -> None:
        super().__init__()
        self.root = Path(root)
        self.manifest = Manifest.load(self.root)
        self.stream = self.manifest.stream(block, t, conditioning)
        self.train_split, self.validation_split = train_split, validation_split
        for split in (train_split, validation_split):
            if not self.vectors(split):
                raise UserError(f"split {split!r} of {self.root} has no vectors; collect more prompts for it")
        self.batch_size = batch_size
        self.verify = verify
        self._train = ShuffledBatches(
            self.root,
            manifest=self.manifest,
            stream=self.stream,
            split=train_split,
            batch_size=batch_size,
            buffer_vectors=buffer_vectors,
            seed=seed,
            drop_last=drop_last,
        )

    @property
    def d_in(self) -> int:
        """Channels of a vector."""
        return self.stream.d_in

    @property
    def grid(self) -> tuple[int, int]:
        """(height, width) of the positions."""
        return self.stream.grid

    def vectors(self, split: str) -> int:
        """Vectors of the stream in one split."""
        return self.manifest.vectors(self.stream, split)

    def prepare_data(self) -> None:
        """Refuse damaged shards, all in one error. Lightning calls this once before the first batch."""
        if self.verify:
            require_sound(self.root, self.manifest, streams=[self.stream.folder])

    def train_dataloader(self) -> ShuffledBatches:
        """The shuffled training batches; the same object every time, so that its place in the epoch is kept."""
        return self._train

    def val_dataloader(self) -> SequentialBatches:
        """The validation batches in the order of the shards."""
        return SequentialBatches(
            self.root,
            manifest=self.manifest,
            stream=self.stream,
            split=self.validation_split,
            batch_size=self.batch_size,
        )
