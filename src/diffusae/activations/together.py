"""Several streams read side by side, each in the order that it has alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytorch_lightning as pl
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import IterableDataset

from diffusae.activations.datamodule import ActivationDataModule, SequentialBatches, ShuffledBatches
from diffusae.errors import UserError


class TogetherBatches(IterableDataset[dict[str, Float[Tensor, "batch d_in"]]]):
    """One batch of every stream a step, for so many steps. A stream that ends begins its next epoch
    by itself.

    Like `ShuffledBatches` it can be saved and goes on at the next batch of every stream.
    """

    def __init__(self, streams: Mapping[str, ShuffledBatches], *, steps: int) -> None:
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
        """The steps given, and the state of every stream."""
        return {
            "steps": self._given,
            "streams": {name: stream.state_dict() for name, stream in self.streams.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next pass go on after the steps given; `UserError` where the streams are
        others."""
        if (found := sorted(state["streams"])) != sorted(self.streams):
            raise UserError(
                f"the checkpoint has the streams {', '.join(found)}, not"
                f" {', '.join(sorted(self.streams))}; restore the grid, or remove the checkpoint"
            )
        self._given = state["steps"]
        for name, stream in self.streams.items():
            stream.load_state_dict(state["streams"][name])


def _endless(stream: ShuffledBatches) -> Iterator[Tensor]:
    while True:
        yield from stream
        stream.set_epoch(stream.epoch + 1)


class TogetherDataModule(pl.LightningDataModule):
    """The streams of several data modules, by name; a validation loader a stream, in the order of
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

    def train_dataloader(self) -> TogetherBatches:
        """The batches; the same object every time, so that its place is kept."""
        return self._train

    def val_dataloader(self) -> list[SequentialBatches]:
        """The validation batches of every stream."""
        return [data.val_dataloader() for data in self.streams.values()]
