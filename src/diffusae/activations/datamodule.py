"""One stream as training and validation batches for Lightning, resumable in mid-epoch."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor

from diffusae.activations.batches import SequentialBatches, ShuffledBatches
from diffusae.activations.manifest import Manifest
from diffusae.activations.paired import PairedSequential, PairedShuffled, check_pair
from diffusae.activations.reader import require_sound
from diffusae.activations.settings import BufferOn, Reader
from diffusae.errors import UserError


class ActivationDataModule(pl.LightningDataModule):
    """The batches of one stream of a finished collection.

    Args:
        root: the collection's directory.
        block, t, conditioning: the stream's coordinates.
        target: block of the stream that a transcoder has as its target; batches are then pairs of
            vectors beside each other. None: the stream is its own target.
        batch_size: vectors per batch. buffer_vectors: vectors in the shuffle buffer.
        seed: fixes the training order, together with the epoch.
        reader: "mapped" (memory-mapped files) or "webdataset"; both give the same batches.
        workers: processes that prepare chunks of batches on the host; 0: this process does.
        buffer_on: "device" (the GPU that trains), "host", or "auto": the GPU where there is room.
        train_split, validation_split: names of the splits.
        drop_last: leave out a short last training batch.
        verify: compare the stream's shards with their hashes before the first batch.

    Raises:
        UserError: the collection is unfinished, the stream or split is unknown, a split has no
            vectors, or a size is invalid; the target has other positions.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        block: str,
        t: float,
        conditioning: str,
        target: str | None = None,
        batch_size: int,
        buffer_vectors: int,
        seed: int,
        train_split: str = "train",
        validation_split: str = "validation",
        drop_last: bool = False,
        reader: Reader = "mapped",
        workers: int = 0,
        buffer_on: BufferOn = "auto",
        verify: bool = True,
    ) -> None:
        super().__init__()
        self.root = Path(root)
        self.manifest = Manifest.load(self.root)
        self.stream = self.manifest.stream(block, t, conditioning)
        self.target = None if target is None else self.manifest.stream(target, t, conditioning)
        self.train_split, self.validation_split = train_split, validation_split
        for split in (train_split, validation_split):
            if not self.vectors(split):
                raise UserError(
                    f"split {split!r} of {self.root} has no vectors; collect more prompts for it"
                )
        self.batch_size = batch_size
        self.verify = verify
        shuffled = partial(
            ShuffledBatches,
            self.root,
            manifest=self.manifest,
            split=train_split,
            batch_size=batch_size,
            buffer_vectors=buffer_vectors,
            seed=seed,
            drop_last=drop_last,
            reader=reader,
            workers=workers,
            buffer_on=buffer_on,
        )
        sequential = partial(
            SequentialBatches,
            self.root,
            manifest=self.manifest,
            split=validation_split,
            batch_size=batch_size,
        )
        self._train: ShuffledBatches | PairedShuffled = shuffled(stream=self.stream)
        self._validation: SequentialBatches | PairedSequential = sequential(stream=self.stream)
        if self.target is not None:
            check_pair(self.stream, self.target)
            self._train = PairedShuffled(self._train, shuffled(stream=self.target))
            self._validation = PairedSequential(self._validation, sequential(stream=self.target))

    @property
    def d_in(self) -> int:
        """Channels of a vector."""
        return self.stream.d_in

    @property
    def d_target(self) -> int | None:
        """Channels of a target's vector; None: there is no other target."""
        return None if self.target is None else self.target.d_in

    @property
    def grid(self) -> tuple[int, int]:
        """(height, width) of the positions."""
        return self.stream.grid

    @property
    def batches_of_epoch(self) -> int:
        """Training batches of an epoch."""
        return len(self._train)

    def vectors(self, split: str) -> int:
        """Vectors of the stream in one split."""
        return self.manifest.vectors(self.stream, split)

    def first_batch(self) -> Float[Tensor, "batch d_in"]:
        """The first training batch, to initialise an autoencoder with: it is trained on as well."""
        return self._train.first_batch()

    def prepare_data(self) -> None:
        """`UserError` for damaged shards (all in one). Lightning calls this before the first
        batch."""
        if self.verify:
            streams = [self.stream] + ([] if self.target is None else [self.target])
            require_sound(self.root, self.manifest, streams=[one.folder for one in streams])

    def place_buffers(self, device: torch.device) -> None:
        """Let batches be made where `buffer_on` says, for a training on `device`."""
        self._train.place_buffer(device)
        self._validation.place_buffer(device, self._train.buffer_on)

    def train_dataloader(self) -> ShuffledBatches | PairedShuffled:
        """The shuffled training batches. Always the same object, which keeps its place in the
        epoch."""
        if self.trainer is not None:
            # None: one process. Processes may also have the whole batch, as the strategy says.
            shares = self.trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}
            self._train.share(shares["rank"], shares["num_replicas"])
            self.place_buffers(self.trainer.strategy.root_device)
        return self._train

    def val_dataloader(self) -> SequentialBatches | PairedSequential:
        """The validation batches in the order of the shards."""
        return self._validation
