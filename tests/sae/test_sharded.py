"""Latents that are dealt over processes train the autoencoder that one process trains."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.testing import assert_close

from command import serve
from diffusae.errors import UserError
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.metrics import decoder_similarity
from diffusae.sae.module import SAEModule
from diffusae.sae.sharded import OF_LATENTS, ShardedModule, ShardedTopK, shard_of
from diffusae.sae.sharded_files import read_parts, write_parts
from diffusae.sae.sparsity import BatchTopK, Codes, JumpReLU, MatryoshkaTopK, Sparsity, TopK
from diffusae.sae.step import Member, Step

D_IN, D_SAE, STEPS = 16, 64, 25
SPARSITIES: dict[str, Callable[[], Sparsity]] = {
    "topk": lambda: TopK(4),
    "matryoshka": lambda: MatryoshkaTopK(4, prefixes=[8, 40]),
}
PRECISIONS = {"topk": "float32", "matryoshka": "bfloat16"}


def batches() -> list[torch.Tensor]:
    drawn = torch.randn(STEPS, 32, D_IN, generator=torch.Generator().manual_seed(0))
    return list(drawn * torch.arange(1, D_IN + 1) / 4)


def trained(name: str, rank: int = 0, processes: int = 1) -> dict[str, Any]:
    """What training leaves: losses, weights, ages, and the latents of the last batch."""
    shard = shard_of(rank, processes, D_SAE) if processes > 1 else None
    sparsity = SPARSITIES[name]()
    sae = SparseAutoencoder(
        D_IN,
        D_SAE,
        ShardedTopK(sparsity, shard) if shard else sparsity,
        encoder_bias=True,
        selection_precision=PRECISIONS[name],  # type: ignore[arg-type]
        shard=shard,
        seed=1,
    )
    kind = ShardedModule if shard else SAEModule
    module = kind(sae, dead_after_vectors=64, lr=1e-2, k_aux=6)
    module.initialise(batches()[0])
    optimizer = module.configure_optimizers()
    step = Step({"": Member("", module)}, optimizer, clip=0.05)
    results = [step({"": batch}) for batch in batches()]
    codes = sae.sparsity.of_all(sae.scaled_pass(batches()[-1]).codes)
    return {
        "module": module,
        "losses": torch.stack([result.losses[0] for result in results]),
        "aux": torch.stack([result.figures[0]["aux_loss"] for result in results]),
        "weights": {key: weight.detach() for key, weight in sae.named_parameters()},
        "gradients": {key: weight.grad for key, weight in sae.named_parameters()},
        "ages": module.vectors_since_fired,
        "chosen": torch.zeros(32, D_SAE).scatter_add_(1, codes.indices, codes.values.relu()),
        "similarity": decoder_similarity(sae.directions, sae.shard),
    }


def compare(rank: int, processes: int, store: Path, whole: dict[str, dict[str, Any]]) -> None:
    """In one process of several: what it has, beside its part of what one process has."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=processes)
    for name, one in whole.items():
        ours = trained(name, rank, processes)
        first, count, _ = shard_of(rank, processes, D_SAE)
        mine = slice(first, first + count)
        assert torch.equal(ours["ages"], one["ages"][mine])
        assert torch.equal(ours["chosen"] > 0, one["chosen"] > 0)
        for what in ("losses", "aux", "chosen"):
            assert_close(ours[what], one[what], rtol=1e-5, atol=1e-6)
        for what in ("weights", "gradients"):  # gradients were clipped: by the norm of all
            for weight, expected in one[what].items():
                expected = expected[mine] if weight in OF_LATENTS else expected
                assert_close(ours[what][weight], expected, rtol=1e-4, atol=1e-6)
        for figure, value in one["similarity"].items():
            assert_close(ours["similarity"][figure], value, rtol=1e-5, atol=1e-6)
    choose_among_equal_ones(rank, processes)
    no_latent_of_this_process_is_chosen(rank, processes)
    parts_are_read_by_another_number_of_processes(rank, processes, store.with_name("parts"))
    dist.destroy_process_group()


def choose_among_equal_ones(rank: int, processes: int) -> None:
    """Rows of 8 latents, k = 3. First row: 5 and two of the three 4, the first ones. Second row:
    only one is above 0.
    """
    rows = torch.tensor([[1.0, 4, 0, 4, 2, 5, 4, 3], [0, 0, 0, 0, 0, 0, 7, 0]])
    shard = shard_of(rank, processes, 8)
    sparsity = ShardedTopK(TopK(3), shard)
    mine = rows[:, shard.first : shard.first + shard.count]
    order = torch.arange(shard.count).expand(2, -1)
    for codes in (Codes(mine, order), Codes(mine.flip(1), order.flip(1))):
        values, indices = sparsity.of_all(sparsity.winners(codes))
        dense = torch.zeros(2, 8).scatter_add_(1, indices, values)
        assert dense.tolist() == [[0, 4, 0, 4, 0, 5, 0, 0], [0, 0, 0, 0, 0, 0, 7, 0]]


def no_latent_of_this_process_is_chosen(rank: int, processes: int) -> None:
    """Only the first process' latents are above 0: the others have no entry, and zero gradients."""
    shard = shard_of(rank, processes, 8)
    sae = SparseAutoencoder(4, 8, ShardedTopK(TopK(2), shard), shard=shard)
    with torch.no_grad():
        sae.W_enc[:] = 1.0 if rank == 0 else -1.0
    module = ShardedModule(sae, dead_after_vectors=100)
    module.total_variance.fill_(1.0)
    module.gradients(torch.ones(3, 4))
    assert (
        module.vectors_since_fired.tolist()
        == ([0, 0] + [3] * 6 if rank == 0 else [3] * 8)[: shard.count]
    )
    assert sae.W_dec.grad is not None and bool(sae.W_dec.grad.any()) == (rank == 0)
    assert sae.b.grad is not None and bool(sae.b.grad.any())


def parts_are_read_by_another_number_of_processes(rank: int, processes: int, parts: Path) -> None:
    sae = SparseAutoencoder(2, 8, TopK(1), shard=shard_of(rank, processes, 8))
    module = ShardedModule(sae, dead_after_vectors=1)
    rows = torch.arange(16.0).view(8, 2).split(sae.d_sae)[rank]
    if processes == 2:
        write_parts(parts, {"rows": module.whole(rows.clone(), of_latents=True)})
    read = torch.empty_like(rows)
    read_parts(parts, {"rows": module.whole(read, of_latents=True)})
    assert torch.equal(read, rows)


def test_two_and_four_processes_choose_the_latents_and_train_the_weights_of_one(tmp_path):
    whole = {name: trained(name) for name in SPARSITIES}
    for one in whole.values():
        assert one["aux"][-1] > 0 and len(set((one["ages"] >= 64).tolist())) == 2  # some are dead
        norm = torch.stack([gradient.norm() for gradient in one["gradients"].values()]).norm()
        assert norm == pytest.approx(0.05, rel=1e-4)  # clipped
        del one["module"]
    serve()
    for processes in (2, 4):
        mp.start_processes(
            compare,
            args=(processes, tmp_path / f"store{processes}", whole),
            nprocs=processes,
            start_method="forkserver",
        )


@pytest.mark.parametrize("sparsity", [BatchTopK(2), JumpReLU(8, l0=0.1)])
def test_a_sparsity_that_does_not_choose_by_row_is_refused(sparsity):
    with pytest.raises(UserError, match=f"sae=matryoshka, not with {sparsity.name}"):
        ShardedTopK(sparsity, shard_of(0, 2, 8))


def test_latents_that_cannot_be_dealt_evenly_are_refused():
    assert shard_of(2, 4, 8) == (4, 2, 8)
    with pytest.raises(UserError, match="d_sae=10 latents cannot be dealt evenly over 4"):
        shard_of(0, 4, 10)


def test_shards_begin_with_the_rows_of_the_whole_and_k_may_be_above_theirs():
    whole = SparseAutoencoder(3, 10, TopK(6), seed=5)
    shards = [
        SparseAutoencoder(3, 10, ShardedTopK(TopK(6), shard), shard=shard, seed=5)
        for shard in (shard_of(rank, 2, 10) for rank in range(2))
    ]
    assert torch.equal(torch.cat([shard.W_dec for shard in shards]), whole.W_dec)
    with pytest.raises(UserError, match="k=11"):
        SparseAutoencoder(3, 10, ShardedTopK(TopK(11), shard_of(0, 2, 10)))
