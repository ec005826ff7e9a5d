"""Numbers that are common to several processes."""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from diffusae.sae.across_processes import anywhere, largest_of_all, least_of_all, world_size

PARTS = [torch.tensor([9.0, 1.0, 4.0, 4.0]), torch.tensor([8.0, 4.0, 6.0])]
COUNTS = [3, 1]
"""Of all, 9, 8, 6 and one 4 are the four largest."""


def in_one_process(rank: int, store: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=len(PARTS))
    kept, least = largest_of_all(PARTS[rank], COUNTS[rank])
    assert least == 4
    assert sorted(PARTS[rank][kept].tolist()) == [[4, 9], [6, 8]][rank]
    assert least_of_all(torch.tensor(float(rank))) == 0
    assert anywhere(torch.tensor(rank == 1))
    assert not anywhere(torch.tensor(False))
    dist.destroy_process_group()


def test_several_processes_keep_the_largest_of_all_and_the_first_of_equal_ones(tmp_path):
    mp.start_processes(in_one_process, args=(tmp_path / "store",), nprocs=len(PARTS), start_method="spawn")


def test_alone_a_process_keeps_its_own():
    kept, least = largest_of_all(PARTS[0], 2)
    assert world_size() == 1
    assert sorted(PARTS[0][kept].tolist()) == [4, 9]
    assert least == least_of_all(least) == 4
