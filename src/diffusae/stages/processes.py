"""One training over several processes: who they are, who starts them, and who writes.

On one machine Lightning starts the processes out of the command (`trainer.devices`), which alone keeps lock, run.json,
W&B and the saved autoencoder. Over several machines torchrun or Slurm starts the command once a device; the first of
these processes keeps them. Checkpoints and metrics.jsonl are always written by rank 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from diffusae.activations.order import check_sizes
from diffusae.errors import UserError

if TYPE_CHECKING:
    from pytorch_lightning.strategies import Strategy

# Lightning is imported where it is used: the stages that only check the configuration start without it.


def processes(cfg: DictConfig) -> int:
    """How many processes share every batch."""
    return cfg.trainer.devices * cfg.trainer.num_nodes


def started_outside() -> bool:
    """Whether torchrun or Slurm has started this process as one of several."""
    from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    return TorchElasticEnvironment.detect() or SLURMEnvironment.detect()


def leads(cfg: DictConfig) -> bool:
    """Whether this process is the one that writes."""
    from pytorch_lightning.utilities.rank_zero import rank_zero_only

    return processes(cfg) == 1 or rank_zero_only.rank == 0  # type: ignore[attr-defined]


def process_faults(cfg: DictConfig) -> Iterator[str]:
    """What is wrong with `trainer.devices` and `trainer.num_nodes`, which are whole numbers from 1."""
    count = processes(cfg)
    if count == 1:
        return
    try:
        check_sizes(
            batch_size=cfg.activations.batch_size,
            buffer_vectors=cfg.activations.buffer_vectors,
            world_size=count,
        )
    except UserError as error:
        yield f"trainer.devices={cfg.trainer.devices}, trainer.num_nodes={cfg.trainer.num_nodes}: {error}"
    if cfg.stage == "train_grid":
        yield f"train_grid trains in one process, and trainer.devices={cfg.trainer.devices}; use `diffusae train -m`"
    elif started_outside() and cfg.stage != "train":
        yield f"only `diffusae train` may be started once a device, not {cfg.stage}; start it once"
    elif cfg.trainer.num_nodes > 1 and not started_outside():
        yield (
            f"trainer.num_nodes={cfg.trainer.num_nodes} needs a process a device that torchrun or Slurm starts; "
            "use these, or trainer.num_nodes=1"
        )


def strategy_of(cfg: DictConfig) -> Strategy | str:
    """Lightning's strategy: distributed data parallel where there are several processes."""
    from pytorch_lightning.strategies import DDPStrategy

    if processes(cfg) == 1:
        return "auto"
    return DDPStrategy() if started_outside() else DDPStrategy(start_method="spawn")
