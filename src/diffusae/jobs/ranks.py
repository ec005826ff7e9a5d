"""Processes that share the work of a stage, every one with a part of its own: how they start, and
what they tell each other.

They do not share a training (`diffusae.jobs.processes` is for that): none of them needs another's
gradients. So their group is one of its own, which torch and Lightning do not know of, and every
process trains as if it were alone. What they tell each other lies in the memory of the CPU, and
goes over gloo, on GPUs too.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8
from torch.distributed import ProcessGroupGloo, Store, TCPStore, rendezvous

from diffusae.errors import USER_FAULT, UserError
from diffusae.jobs.faults import explained
from diffusae.jobs.processes import started_outside
from diffusae.masking import mask_output, masked
from diffusae.stopping import stopped_by_signals

LONGEST_WAIT = timedelta(hours=1)
"""For another process, such as one that trains on a chunk. One that has ended is noticed at once;
this is for one whose machine or network is gone."""

SAVING_S = 60
"""How long a process that is stopped may take to save its checkpoint."""

Done = TypeVar("Done")
Bytes = UInt8[np.ndarray, " bytes"]


class Ranks:
    """This process among those that share the work.

    Args:
        rank: its number, from 0 on. The first one leads: it writes what is common to all.
        count: how many they are.
        store: through which they find each other; a single process needs none.

    Raises:
        UserError: here and in every exchange, when another process has ended.
    """

    def __init__(self, rank: int = 0, count: int = 1, store: Store | None = None) -> None:
        self.rank, self.count = rank, count
        self._group: Any = None
        if count > 1:
            with self._others():
                self._group = ProcessGroupGloo(store, rank, count, LONGEST_WAIT)  # type: ignore[call-arg]

    @property
    def leads(self) -> bool:
        """Whether this process writes what is common to all."""
        return self.rank == 0

    def told(self, value: Any) -> list[Any]:
        """What every process tells all, one value a process: plain JSON. All must call it."""
        if self._group is None:
            return [value]
        text = np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)
        texts = self.swapped(np.tile(text, self.count), [len(text)] * self.count)
        return [json.loads(text.tobytes()) for text in texts]

    def swapped(self, given: Bytes, sizes: Sequence[int]) -> list[Bytes]:
        """Give every process its part of `given`, which are the parts one after the other, and
        return what every process gives this one. All must call it.
        """
        if self._group is None:
            return [given]
        ones = [1] * self.count
        taken = self._exchanged(torch.tensor(sizes), ones, ones).tolist()
        parts = self._exchanged(torch.from_numpy(given), list(sizes), taken)
        return [part.numpy() for part in parts.split(taken)]

    def leave(self) -> None:
        """End the connections, so that nobody waits for this process."""
        self._group = None

    def _exchanged(self, given: torch.Tensor, sizes: list[int], taken: list[int]) -> torch.Tensor:
        """`taken`: how many numbers every process gives this one."""
        out = given.new_empty(sum(taken))
        with self._others():
            self._group.alltoall_base(out, given, taken, sizes).wait()
        return out

    @contextmanager
    def _others(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise UserError(
                f"process {self.rank + 1} of {self.count} cannot go on: another one has ended (its"
                f" own last line says why), or has not answered for"
                f" {LONGEST_WAIT.total_seconds() / 3600:g} h; the same command goes on"
            ) from error


def shared(work: Callable[[Ranks], Done], *, devices: int, num_nodes: int) -> Done:
    """Carry out `work` in `devices` processes on each of `num_nodes` machines, and return what this
    process' own gives.

    Where torchrun or Slurm has started this process as one of them, the others are there already.
    Otherwise this process leads, and starts the others on this machine.

    Args:
        work: a function that can be pickled.

    Raises:
        UserError: another number of processes was started, or one of them has ended.
    """
    count = devices * num_nodes
    if count == 1:
        return work(Ranks())
    return work(_started(count)) if started_outside() else _starting(work, count)


def _started(count: int) -> Ranks:
    """This process among those that torchrun or Slurm has started."""
    from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    elastic = TorchElasticEnvironment.detect()
    environment = TorchElasticEnvironment() if elastic else SLURMEnvironment()
    if environment.world_size() != count:
        raise UserError(
            f"{environment.world_size()} processes are started, and trainer.devices x"
            f" trainer.num_nodes is {count}; make them equal"
        )
    address, port = environment.main_address, environment.main_port
    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(port)}
    rank = environment.global_rank()
    store, *_ = next(rendezvous("env://", rank, count))
    _take_device(environment.local_rank())
    return Ranks(rank, count, store)


def _starting(work: Callable[[Ranks], Done], count: int) -> Done:
    """Start the other processes on this machine, and lead them."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    alone = torch.get_num_threads()
    threads = max(1, alone // count)
    fork = multiprocessing.get_context("forkserver")  # a clean process: this one has threads
    others: list[BaseProcess] = []
    try:
        for rank in range(1, count):
            others.append(
                fork.Process(target=_beside, args=(work, rank, count, store.port, threads))
            )
            others[-1].start()
        _await(others, store)
        torch.set_num_threads(threads)
        ranks = Ranks(0, count, store)
        try:
            done = work(ranks)
        finally:
            ranks.leave()  # before the others are told to end: they may wait for this process
        for other in others:
            other.join()
        return done
    finally:
        torch.set_num_threads(alone)
        _end(others)


def _beside(work: Callable[[Ranks], Any], rank: int, count: int, port: int, threads: int) -> None:
    """The whole life of a process that another one has started."""
    mask_output()
    logging.disable(logging.INFO)  # the leader tells what all do, and is warned by libraries
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    _take_device(rank)
    with stopped_by_signals():
        try:
            store = TCPStore("127.0.0.1", port, is_master=False)
            store.set(_here(rank), "")
            work(Ranks(rank, count, store))
        except Exception as error:
            message = explained(error)
            if message is None:
                raise
            print(masked(f"process {rank + 1} of {count}: {message}"), file=sys.stderr)
            raise SystemExit(USER_FAULT) from None


def _here(rank: int) -> str:
    """What a process that has come leaves in the store."""
    return f"here/{rank}"


def _await(others: Sequence[BaseProcess], store: Store) -> None:
    """Wait until all are there. (The group itself would wait for one that has ended.)"""
    while not store.check([_here(rank) for rank in range(1, len(others) + 1)]):
        for rank, other in enumerate(others, 1):
            if other.exitcode is not None:
                raise UserError(
                    f"process {rank + 1} of {len(others) + 1} has ended before it began, with the"
                    f" exit code {other.exitcode}; its own last line says why"
                )
        time.sleep(0.05)


def _end(others: Sequence[BaseProcess]) -> None:
    """Stop those that still run; each saves a checkpoint where it trains."""
    running = [other for other in others if other.is_alive()]
    for other in running:
        other.terminate()
    for other in running:
        other.join(SAVING_S)
        other.kill()


def _take_device(local: int) -> None:
    """Make process `local` of this machine use a GPU of its own, where there are any."""
    if torch.cuda.is_available():
        torch.cuda.set_device(local % torch.cuda.device_count())
