"""Processes that share work, forked from a server that has the imports (`command.serve`)."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.distributed import FileStore

from command import serve
from diffusae.jobs.ranks import Ranks


def in_processes(work: Callable[..., Any], count: int, directory: Path, *args: Any) -> list[int]:
    """The exit codes of `work(ranks, *args)` in `count` processes that meet in a directory."""
    serve()
    fork = multiprocessing.get_context("forkserver")
    store = str(directory / "store")
    processes = [
        fork.Process(target=_begin, args=(work, rank, count, store, args)) for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode or 0 for process in processes]


def _begin(work: Callable[..., Any], rank: int, count: int, store: str, args: Any) -> None:
    work(Ranks(rank, count, FileStore(store, count)), *args)
