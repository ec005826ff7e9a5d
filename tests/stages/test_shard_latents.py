"""`diffusae train` with latents that are dealt over processes: the autoencoder of one process."""

import os
import socket
import sys
from pathlib import Path

import pytest
import torch.multiprocessing as mp
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from command import diffusae, serve
from diffusae.runs.metric_log import read_metrics
from diffusae.sae.storage import load_sae
from stages.vector_collection import place_vectors

CELL = "mid-t1.00-cond-k4"
COMMAND = [
    "train", "debug=tiny", "sae=topk", "sae.k=4", "timestep=early", "block=mid", "conditioning=cond",
    "trainer.accelerator=cpu", "sae.selection_precision=float32", "sae.dead_after_vectors=100",
    "sae.gradient_clip=0.5", "trainer.validate_every=2", "trainer.checkpoint_every=1",
]  # fmt: skip
SHARDED = "trainer.shard_latents=true"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    place_vectors(root / "activations")
    return root


def command(outputs: Path, name: str, *arguments: str) -> list[str]:
    where = [f"paths.outputs={outputs}", f"name={name}"]
    return [*COMMAND, *arguments, *where, f"paths.activations={outputs / 'activations'}"]


def as_torchrun(rank: int, processes: int, port: int, arguments: list[str]) -> None:
    """What one of the processes does that torchrun starts."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    rank_zero_only.rank = rank  # read when Lightning was imported, before this process was forked
    sys.argv = ["diffusae", *arguments]
    from diffusae.cli import main

    try:
        main()
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"exit code {end.code}") from end


def train(outputs: Path, name: str, *arguments: str, processes: int = 2) -> Path:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve()
    given = command(outputs, name, SHARDED, f"trainer.devices={processes}", *arguments)
    mp.start_processes(
        as_torchrun, args=(processes, port, given), nprocs=processes, start_method="forkserver"
    )
    return outputs / name / "sae" / CELL


def test_try(outputs):
    two = train(outputs, "two")
    diffusae(*command(outputs, "one"))
    one = outputs / "one" / "sae" / CELL
    print(
        os.listdir(two),
        (two / "sae.safetensors.index.json").read_text(),
        (two / "cfg.json").read_text(),
    )
    a, b = load_sae(one)[0], load_sae(two)[0]
    for (n, x), y in zip(a.state_dict().items(), b.state_dict().values()):
        print(n, x.shape, y.shape, (x - y).abs().max())
    for r, s in zip(read_metrics(one / "metrics.jsonl"), read_metrics(two / "metrics.jsonl")):
        print(r)
        print(s)
    assert 0
