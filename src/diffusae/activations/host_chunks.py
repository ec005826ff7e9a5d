"""The chunks of an epoch in the host's memory, made by this process or by workers."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import get_context
from multiprocessing.context import BaseContext

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from diffusae.activations.epoch_images import MappedImages, StreamedImages
from diffusae.activations.local_copy import Copies
from diffusae.activations.order import EpochOrder
from diffusae.activations.scattered import ScatteredRows, scattered_batches
from diffusae.activations.shuffle import chunk_of_batches

HostChunk = list[Tensor] | list[ScatteredRows]
"""The batches of a chunk."""


class HostChunks(IterableDataset[HostChunk]):
    """The chunks of an epoch from chunk `first` on; worker w of n makes every n-th, beginning with
    w.

    Without workers, vectors of mapped shards are not copied here but gathered batch by batch.
    """

    def __init__(
        self,
        order: EpochOrder,
        images: Callable[[], MappedImages | StreamedImages],
        *,
        d_in: int,
        dtype: np.dtype,
        first: int,
    ) -> None:
        self.order, self.images, self.first = order, images, first
        self.d_in, self.dtype = d_in, dtype
        self.copies = Copies()  # tells new worker processes which directories are local copies

    def __iter__(self) -> Iterator[HostChunk]:
        worker = get_worker_info()
        offset, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        images = self.images()
        if worker is None and isinstance(images, MappedImages):
            for chunk in range(self.first, self.order.chunks):
                yield scattered_batches(self.order, chunk, images.place)
            return
        # One memory serves all chunks: batches are copied before the next chunk is made. A worker
        # runs ahead, so it needs new memory.
        size = self.order.batches_of_chunk * self.order.batch_size
        shape = min(size, self.order.vectors), self.d_in
        memory = None if worker else np.empty(shape, dtype=self.dtype)
        for chunk in range(self.first + offset, self.order.chunks, stride):
            yield chunk_of_batches(
                self.order, chunk, images, d_in=self.d_in, dtype=self.dtype, memory=memory
            )

    def by_workers(self, count: int, *, fetches: bool) -> Iterable[HostChunk]:
        """The same chunks, made ahead by `count` processes. `fetches`: from a local copy."""
        return DataLoader(
            self,
            batch_size=None,
            num_workers=count,
            multiprocessing_context=_server_of_workers() if fetches else None,
            worker_init_fn=_leave_signals_to_the_training,
        )


def _server_of_workers() -> BaseContext:
    """Workers fork from a server process that has no threads and has imported this module.

    Fetching runs threads. A process that is forked from one with threads can wait for a lock
    forever.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _leave_signals_to_the_training(_worker: int) -> None:
    """Ignore stop signals: the training needs its workers until its checkpoint is written. Workers
    end with their parent."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
