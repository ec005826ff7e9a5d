"""One stream as training and validation batches for Lightning, resumable in mid-epoch."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor

from diffusae.activations.batches import SequentialBatches, ShuffledBatches
from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import require_sound
from diffusae.activations.settings import BufferOn, Reader
from diffusae.errors import UserError


class ActivationDataModule(pl.LightningDataModule):
    """The batches of one stream of a finished collection.

    Args:
        root: the collection's directory.
        block, t, conditioning: the stream's coordinates.
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
            vectors, or a size is invalid.
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
        reader: Reader = "mapped",
        workers: int = 0,
        buffer_on: BufferOn = "auto",
        verify: bool = True,
    ) -> None:
        super().__init__()
        self.root = Path(root)
        self.manifest = Manifest.load(self.root)
        self.stream = self.manifest.stream(block, t, conditioning)
        self.train_split, self.validation_split = train_split, validation_split
        for split in (train_split, validation_split):
            if not self.vectors(split):
                raise UserError(
                    f"split {split!r} of {self.root} has no vectors; collect more prompts for it"
                )
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
            reader=reader,
            workers=workers,
            buffer_on=buffer_on,
        )
        self._validation = SequentialBatches(
            self.root,
            manifest=self.manifest,
            stream=self.stream,
            split=validation_split,
            batch_size=batch_size,
        )

    @property
    def d_in(self) -> int:
        """Channels of a vector."""
        return self.stream.d_in

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
            require_sound(self.root, self.manifest, streams=[self.stream.folder])

    def place_buffers(self, device: torch.device) -> None:
        """Let batches be made where `buffer_on` says, for a training on `device`."""
        self._train.place_buffer(device)
        self._validation.place_buffer(device, self._train.buffer_on)

    def train_dataloader(self) -> ShuffledBatches:
        """The shuffled training batches. Always the same object, which keeps its place in the
        epoch."""
        if self.trainer is not None:
            # None: one process. Processes may also have the whole batch, as the strategy says.
            shares = self.trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}
            self._train.share(shares["rank"], shares["num_replicas"])
            self.place_buffers(self.trainer.strategy.root_device)
        return self._train

    def val_dataloader(self) -> SequentialBatches:
        """The validation batches in the order of the shards."""
        return self._validation
