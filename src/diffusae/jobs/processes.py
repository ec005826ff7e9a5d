"""One training over several processes: their ranks, who starts them, and who writes.

On one machine Lightning starts the processes from the command (`trainer.devices`), and the command
alone keeps the lock, run.json, W&B and the saved autoencoder. Over several machines torchrun or
Slurm starts the command once a device, and the first of these processes keeps them. Checkpoints and
metrics.jsonl are always written by rank 0.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from diffusae.errors import UserError, unknown
from diffusae.sae.settings import ACCELERATORS, SaeSettings, TrainerSettings

if TYPE_CHECKING:
    from pytorch_lightning.plugins.environments import ClusterEnvironment
    from pytorch_lightning.strategies import Strategy

# Lightning is imported where it is used: the stages that only check the configuration start without
# it.

_RANKS = (
    "RANK",
    "LOCAL_RANK",
    "NODE_RANK",
    "GROUP_RANK",
    "WORLD_SIZE",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NODEID",
    "JSM_NAMESPACE_RANK",
)
"""Variables that make libraries take this process for one of several."""


def started_outside() -> bool:
    """Whether torchrun or Slurm has started this process as one of several."""
    from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    return TorchElasticEnvironment.detect() or SLURMEnvironment.detect()


def torchrun_processes() -> int:
    """How many processes torchrun has started together with this one; 0 if it has started none.

    (Slurm's variables do not say it: a command that is started once in a job of four tasks sees
    them too.)
    """
    return int(os.environ.get("WORLD_SIZE", 1)) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def leads(processes: int) -> bool:
    """Whether this process is the one that writes."""
    return rank_of(processes) == 0


def rank_of(processes: int) -> int:
    """The rank of this process, before Lightning starts others."""
    if processes == 1 or not started_outside():
        return 0
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

    return int(rank_zero_only.rank)  # type: ignore[attr-defined]


def environment_of(processes: int) -> list[ClusterEnvironment]:
    """Tells Lightning that this command was started once; empty where torchrun or Slurm started it.

    A shell inside a Slurm job or a container may have ranks of a former job. They are removed here:
    with them, Lightning would leave the writing to another process, or wait for processes that
    never come.
    """
    from lightning_fabric.plugins.environments import LightningEnvironment
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

    if processes > 1 and started_outside():
        return []
    for name in _RANKS:
        os.environ.pop(name, None)
    rank_zero_only.rank = 0  # type: ignore[attr-defined]
    return [LightningEnvironment()]


def process_faults(
    stage: str,
    *,
    devices: int,
    num_nodes: int,
    batch_size: int,
    buffer_vectors: int,
    shard_latents: bool = False,
) -> Iterator[str]:
    """The faults of `devices` processes on each of `num_nodes` machines in a stage."""
    count, started = devices * num_nodes, torchrun_processes()
    if count == 1 and started <= 1:
        return
    from diffusae.activations.epoch_size import check_sizes

    shares = 1 if shard_latents else count
    try:
        if stage != "train_online":  # whose processes share no batch
            check_sizes(batch_size=batch_size, buffer_vectors=buffer_vectors, world_size=shares)
    except UserError as error:
        yield f"trainer.devices={devices}, trainer.num_nodes={num_nodes}: {error}"
    if stage == "train_grid" and count > 1:
        yield (
            f"train_grid trains in one process, and trainer.devices={devices}; use `diffusae train"
            " -m`"
        )
    elif started_outside() and stage not in ("train", "train_online"):
        yield (
            "only `diffusae train` and `diffusae train_online` may be started once a device, not"
            f" {stage}; start it once"
        )
    elif started not in (0, count):
        yield (
            f"torchrun has started {started} processes, and trainer.devices x trainer.num_nodes is"
            f" {count}; make them equal, or start the command without torchrun"
        )
    elif num_nodes > 1 and not started_outside():
        yield (
            f"trainer.num_nodes={num_nodes} needs a process a device that torchrun or Slurm starts;"
            " use these, or trainer.num_nodes=1"
        )


def shard_faults(stage: str, sae: SaeSettings, trainer: TrainerSettings) -> Iterator[str]:
    """The faults of a training whose latents are dealt over processes
    (`trainer.shard_latents=true`).
    """
    asked, processes = "trainer.shard_latents=true", trainer.processes
    if stage != "train":
        yield f"{asked} is for `diffusae train`, not {stage}; set trainer.shard_latents=false"
    if processes == 1:
        yield (
            f"{asked} deals latents over processes, and there is one; set trainer.devices, or"
            " trainer.shard_latents=false"
        )
    elif not started_outside():
        yield (
            f"{asked} needs a process a device that torchrun or Slurm starts; use these, or"
            " trainer.shard_latents=false"
        )
    if sae.d_sae % processes:
        yield (
            f"{asked}: d_sae={sae.d_sae} latents cannot be dealt evenly over {processes}"
            " processes; set sae.d_sae to a multiple, or another trainer.devices"
        )
    kind = str(sae.sparsity.get("_target_")).rpartition(".")[2]
    if kind not in ("TopK", "MatryoshkaTopK"):
        yield f"{asked} works with sae=topk and sae=matryoshka, not with {kind}; set one of these"
    if sae.ema is not None:
        yield f"{asked} keeps no moving average, and sae.ema={sae.ema}; set sae.ema=null"
    if trainer.kernels == "dense":
        yield f"{asked} has no dense products, and trainer.kernels=dense; set trainer.kernels=auto"


def device_fault(
    accelerator: object, devices: object = 1, *, setting: str = "trainer.accelerator"
) -> str | None:
    """The fault of the training's device on this machine; None where it is available.

    Args:
        devices: their number; anything that is no whole number is refused elsewhere.
        setting: the name of `accelerator`, for the message.
    """
    if accelerator not in ACCELERATORS:
        return str(unknown(setting, accelerator, ACCELERATORS))
    if accelerator in ("cpu", "auto") and devices == 1:
        return None  # at hand everywhere: nothing to ask torch, which takes seconds to import
    import torch

    gpus = {"cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
            "mps": int(torch.backends.mps.is_available())}  # fmt: skip
    gpus["gpu"] = gpus["cuda"] or gpus["mps"]
    asked = "gpu" if accelerator == "auto" and gpus["gpu"] else accelerator
    if asked in gpus and not gpus[str(asked)]:
        kind = {"cuda": "CUDA device", "mps": "Apple GPU", "gpu": "GPU"}[str(asked)]
        return f"{setting}={accelerator}, but torch has no {kind} here; use {setting}=cpu, or auto"
    count = gpus.get(str(asked)) or os.cpu_count() or 1
    # Processes that share a core are slow, but no error.
    most = count if asked in gpus else 4 * count
    if isinstance(devices, int) and devices > most:
        kind = "GPUs" if asked in gpus else "CPU cores"
        return f"trainer.devices={devices}, but there are {count} {kind} here; use at most {count}"
    return None


def strategy_of(processes: int, *, shard_latents: bool = False) -> Strategy | str:
    """Lightning's strategy: distributed data parallel where there are several processes, unless
    they have different latents.
    """
    if processes == 1:
        return "auto"
    if shard_latents:
        from diffusae.jobs.latent_shards import LatentShards

        return LatentShards()
    from pytorch_lightning.strategies import DDPStrategy

    return DDPStrategy() if started_outside() else DDPStrategy(start_method="spawn")
