"""Numbers that are common to several processes."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from command import serve
from diffusae.sae.across_processes import anywhere, largest_of_all, least_of_all, world_size
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.module import SAEModule
from diffusae.sae.sparsity import BatchTopK, JumpReLU, MatryoshkaTopK, ReLU, TopK

PARTS = [torch.tensor([9.0, 1.0, 4.0, 4.0]), torch.tensor([8.0, 4.0, 6.0])]
COUNTS = [3, 1]
"""Of all, 9, 8, 6 and one 4 are the four largest."""


def losses_of(batch: torch.Tensor) -> list[float]:
    """The loss of a first step with every sparsity on this process' part of a batch."""
    losses = []
    for sparsity in (
        TopK(3), BatchTopK(3), MatryoshkaTopK(3, prefixes=[8]), ReLU(l1=0.1),
        JumpReLU(24, l0=0.1, first_threshold=0.5),
    ):  # fmt: skip
        module = SAEModule(SparseAutoencoder(8, 24, sparsity, seed=1), dead_after_vectors=40)
        module.initialise(torch.randn(64, 8, generator=torch.Generator().manual_seed(0)))
        loss, _ = module.gradients(batch)
        losses.append(loss.item())
    return losses


def in_one_process(rank: int, store: Path, vector: torch.Tensor, expected: list[float]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=len(PARTS))
    kept, least = largest_of_all(PARTS[rank], COUNTS[rank])
    assert least == 4
    assert sorted(PARTS[rank][kept].tolist()) == [[4, 9], [6, 8]][rank]
    assert least_of_all(torch.tensor(float(rank))) == 0
    assert anywhere(torch.tensor(rank == 1))
    assert not anywhere(torch.tensor(False))
    losses = torch.tensor(losses_of(vector if rank == 1 else vector[:0]))
    dist.all_reduce(losses)
    assert (losses / 2).tolist() == pytest.approx(expected, rel=1e-5)
    dist.destroy_process_group()


def test_several_processes_keep_the_largest_of_all_and_share_a_batch_of_which_one_has_no_part(
    tmp_path,
):
    vector = torch.randn(1, 8, generator=torch.Generator().manual_seed(1))
    serve()
    mp.start_processes(
        in_one_process,
        args=(tmp_path / "store", vector, losses_of(vector)),
        nprocs=len(PARTS),
        start_method="forkserver",
    )


def test_alone_a_process_keeps_its_own():
    kept, least = largest_of_all(PARTS[0], 2)
    assert world_size() == 1
    assert sorted(PARTS[0][kept].tolist()) == [4, 9]
    assert least == least_of_all(least) == 4
