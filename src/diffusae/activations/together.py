"""Several streams read side by side. A stream has the same order as alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import pytorch_lightning as pl
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import IterableDataset

from diffusae.activations.batches import SequentialBatches, ShuffledBatches
from diffusae.activations.datamodule import ActivationDataModule
from diffusae.activations.paired import PairedSequential, PairedShuffled
from diffusae.errors import UserError


class TogetherBatches(IterableDataset[dict[str, Float[Tensor, "batch d_in"]]]):
    """One batch of every stream per step, for `steps` steps. A stream that ends begins its next
    epoch.

    Its state can be saved. A restored one continues at the next batch of every stream.
    """

    def __init__(
        self, streams: Mapping[str, ShuffledBatches | PairedShuffled], *, steps: int
    ) -> None:
        if not streams:
            raise UserError("there is no stream to read; name one cell at least")
        if steps < 1:
            raise UserError(f"steps={steps} must be at least 1; raise trainer.steps")
        self.streams, self.steps = dict(streams), steps
        self._given = 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[dict[str, Float[Tensor, "batch d_in"]]]:
        endless = {name: _endless(stream) for name, stream in self.streams.items()}
        while self._given < self.steps:
            batches = {name: next(stream) for name, stream in endless.items()}
            self._given += 1
            yield batches

    def state_dict(self) -> dict[str, Any]:
        """The number of given steps, and the state of every stream."""
        return {
            "steps": self._given,
            "streams": {name: stream.state_dict() for name, stream in self.streams.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next pass continue after the given steps. `UserError` if the streams differ."""
        if (saved := sorted(state["streams"])) != sorted(self.streams):
            raise UserError(
                f"the checkpoint has the streams {', '.join(saved)}, not "
                f"{', '.join(sorted(self.streams))}; restore the grid, or remove the checkpoint"
            )
        self._given = state["steps"]
        for name, stream in self.streams.items():
            stream.load_state_dict(state["streams"][name])


def _endless(stream: ShuffledBatches | PairedShuffled) -> Iterator[Tensor]:
    while True:
        yield from stream
        stream.set_epoch(stream.epoch + 1)


class StreamsDataModule(pl.LightningDataModule, ABC):
    """The batches of several streams, by name."""

    @abstractmethod
    def first_batches(self) -> dict[str, Float[Tensor, "batch d_in"]]:
        """The first training batch of every stream, to initialise autoencoders with; it is trained
        on as well.
        """


class TogetherDataModule(StreamsDataModule):
    """The streams of several data modules, by name. Validation loaders are in the order of
    `streams`."""

    def __init__(self, streams: Mapping[str, ActivationDataModule], *, steps: int) -> None:
        super().__init__()
        self.streams = dict(streams)
        self._train = TogetherBatches(
            {name: data.train_dataloader() for name, data in streams.items()}, steps=steps
        )

    def prepare_data(self) -> None:
        """Refuse damaged shards."""
        for data in self.streams.values():
            data.prepare_data()

    def first_batches(self) -> dict[str, Float[Tensor, "batch d_in"]]:
        return {name: data.first_batch() for name, data in self.streams.items()}

    def train_dataloader(self) -> TogetherBatches:
        """The batches. Always the same object, which keeps its place."""
        if self.trainer is not None:
            for data in self.streams.values():
                data.place_buffers(self.trainer.strategy.root_device)
        return self._train

    def val_dataloader(self) -> list[SequentialBatches | PairedSequential]:
        """The validation batches of every stream."""
        return [data.val_dataloader() for data in self.streams.values()]
