"""Processes that share the work of a stage tell each other what they must know."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist

from command import serve
from diffusae.errors import UserError
from diffusae.jobs.ranks import Ranks, shared
from several import in_processes

GIVEN = [([7, 8, 9], [1, 2]), ([1, 2, 3], [3, 0])]
"""What the two processes give, and how much of it each gets: the second gives itself nothing."""
TAKEN = [[[7], [1, 2, 3]], [[8, 9], []]]


def talk(ranks: Ranks) -> None:
    told = {"rank": ranks.rank, "text": "é" * ranks.rank}
    assert ranks.told(told) == [{"rank": 0, "text": ""}, {"rank": 1, "text": "é"}]
    given, sizes = GIVEN[ranks.rank]
    taken = ranks.swapped(np.array(given, dtype=np.uint8), sizes)
    assert [part.tolist() for part in taken] == TAKEN[ranks.rank]
    assert not dist.is_initialized()  # or trainings would take each other for parts of one


@pytest.fixture(autouse=True, scope="module")
def server() -> None:
    serve()


def test_two_processes_tell_each_other_values_and_swap_bytes(tmp_path):
    assert in_processes(talk, 2, tmp_path) == [0, 0]


def lose(ranks: Ranks) -> None:
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    with pytest.raises(
        UserError, match=r"process 1 of 2 cannot go on: another one has ended .* th"
    ):
        ranks.told(None)


def test_a_process_that_waits_for_one_that_is_killed_ends_with_one_line(tmp_path):
    assert in_processes(lose, 2, tmp_path) == [0, -signal.SIGKILL]


def test_a_single_process_tells_itself():
    assert shared(lambda ranks: ranks.told((ranks.count, ranks.leads)), devices=1, num_nodes=1) == [
        (1, True)
    ]


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """The surroundings that torchrun gives the first of three processes."""
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "RANK": "0", "WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)


def test_another_number_of_processes_than_are_started_is_refused(torchrun):
    with pytest.raises(UserError, match=r"3 processes are started, and .* is 2; make them equal"):
        shared(lambda ranks: None, devices=2, num_nodes=1)


def meet(ranks: Ranks) -> list[int]:
    return ranks.told(ranks.rank)


def test_the_first_process_starts_the_others_and_returns_its_own_result():
    assert shared(meet, devices=3, num_nodes=1) == [0, 1, 2]


def die(ranks: Ranks) -> None:
    if not ranks.leads:
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.told(None)


def test_a_started_process_that_is_killed_ends_the_first_one_with_one_line():
    with pytest.raises(UserError, match="another one has ended"):
        shared(die, devices=2, num_nodes=1)


def leave(ranks: Ranks, ended: Path) -> None:
    ranks.told(None)
    if ranks.leads:
        raise KeyError("a fault of the first one")
    try:
        ranks.told(None)
    finally:
        ended.touch()


def test_a_process_that_waits_for_the_first_one_ends_when_that_fails(tmp_path):
    with pytest.raises(KeyError, match="a fault of the first one"):
        shared(partial(leave, ended=tmp_path / "ended"), devices=2, num_nodes=1)
    assert (tmp_path / "ended").exists()
