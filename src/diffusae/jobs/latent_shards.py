"""Lightning's part of a training whose latents are dealt over processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch.distributed.tensor import DTensor

from diffusae.sae.sharded import OF_LATENTS, ShardedModule
from diffusae.sae.sharded_files import read_parts, write_parts, write_whole

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What Adam keeps of every weight."""


class LatentShards(DDPStrategy):
    """Processes that have the same batches and different latents.

    A checkpoint `step-<n>.ckpt` has what is the same in all processes, and the directory `step-<n>`
    beside it what belongs to latents. It can be read by another number of processes.
    """

    def configure_ddp(self) -> None:
        """Nothing: the step sums over processes what has to be summed."""

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Every process reads the whole batch."""
        return {"num_replicas": 1, "rank": 0}

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Parts are read to the device, where the weights are after the setup."""
        return True

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None
    ) -> None:
        apart: dict[str, DTensor] = {}
        kept = dict(checkpoint)
        for name, values, key in self._of_latents(kept):
            apart[name] = self._whole(values.pop(key))
        write_parts(_directory(filepath), apart)
        super().save_checkpoint(kept, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        checkpoint = super().load_checkpoint(checkpoint_path, *args, **options)
        weights = self._module.state_dict()
        parts: dict[str, torch.Tensor] = {}
        for name, values, key in self._of_latents(checkpoint):
            like = weights[name.removesuffix(f".{key}")]
            values[key] = parts[name] = like if key == name else torch.empty_like(like)
        read_parts(
            _directory(checkpoint_path), {name: self._whole(part) for name, part in parts.items()}
        )
        return checkpoint

    def _of_latents(self, checkpoint: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
        """(name, dictionary, key) of all tensors of a checkpoint with a row a latent. The
        dictionaries are made anew: those of the optimiser are its own.
        """
        state = checkpoint["state_dict"] = dict(checkpoint["state_dict"])
        start = "autoencoder."
        for name in (*(start + weight for weight in OF_LATENTS), "vectors_since_fired"):
            yield name, state, name
        (optimizer,) = checkpoint["optimizer_states"]
        moments = {number: dict(values) for number, values in optimizer["state"].items()}
        checkpoint["optimizer_states"] = [{**optimizer, "state": moments}]
        names = [name for name, _ in self._module.autoencoder.named_parameters()]
        for number, values in moments.items():
            if names[number] in OF_LATENTS:
                for key in MOMENTS:
                    yield f"{start}{names[number]}.{key}", values, key

    def _whole(self, part: torch.Tensor) -> DTensor:
        return self._module.whole(part, of_latents=True)

    @property
    def _module(self) -> ShardedModule:
        assert isinstance(self.lightning_module, ShardedModule)
        return self.lightning_module


class WholeWeights(pl.Callback):
    """Writes the weights of all processes when a training has ended.

    Args:
        directory: where to.
        beside: see `write_whole`.
    """

    def __init__(self, directory: Path, *, beside: Path) -> None:
        self.directory, self.beside = directory, beside

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, ShardedModule)
        write_whole(self.directory, pl_module, beside=self.beside)


def _directory(checkpoint: Path | str) -> Path:
    """Of the parts of a checkpoint. (The leading process writes to a name with another ending.)"""
    path = Path(checkpoint)
    return path.with_name(path.name.partition(".")[0])
