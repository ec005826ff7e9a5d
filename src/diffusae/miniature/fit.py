"""The training loop of all parts: a Lightning fit that resumes from its newest checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger
from torch.utils.data import Dataset, default_collate

Module = TypeVar("Module", bound=torch.nn.Module)


def channels_last(module: Module) -> Module:
    """The module in the memory format that is faster for convolutions on CPUs."""
    to: Any = module.to  # torch's own types do not know this form of `to`
    return to(memory_format=torch.channels_last)


def falling_rate(step: int, *, steps: int, warmup: int = 200, last_part: float = 0.3) -> float:
    """The share of the full learning rate at a step: warm-up, constant, fall to 0 over `last_part`.

    A run can be lengthened by more steps, also after it has ended.
    """
    return max(0.0, min(1.0, (step + 1) / warmup, (steps - step) / (last_part * steps)))


class OrderedBatches:
    """The batches of a dataset in its own order, resumable: the state is the number of batches."""

    def __init__(self, data: Dataset, *, batch_size: int, batches: int, given: int = 0) -> None:
        self.data, self.batch_size, self.batches, self.given = data, batch_size, batches, given

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Any]:
        while self.given < self.batches:
            first = self.given * self.batch_size
            self.given += 1
            yield default_collate([self.data[first + i] for i in range(self.batch_size)])

    def state_dict(self) -> dict[str, int]:
        """The state for Lightning's checkpoint."""
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after these batches."""
        self.given = state["given"]


def steps_done(directory: Path) -> int:
    """The steps of the newest checkpoint in a directory; 0 where there is none."""
    newest = directory / "last.ckpt"
    if not newest.exists():
        return 0
    return int(torch.load(newest, weights_only=True, map_location="cpu", mmap=True)["global_step"])


def fit(
    module: pl.LightningModule,
    data: Dataset,
    *,
    batch_size: int,
    steps: int,
    directory: Path,
    checkpoint_every: int = 100,
    accelerator: str = "auto",
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
) -> None:
    """Train `module` until it has seen `steps` batches of `data`, in its order.

    The checkpoint `last.ckpt` in `directory` is written every `checkpoint_every` steps. A later
    run skips the samples that were seen, and continues as if it had never stopped. 0 steps do
    nothing.
    """
    if steps == 0:
        return
    newest = directory / "last.ckpt"
    saved, seen = None, 0
    if newest.exists():
        saved = torch.load(newest, weights_only=True, map_location="cpu")
        seen = int(saved["global_step"])
    if saved is not None and seen >= steps:
        module.load_state_dict(saved["state_dict"])
        return
    loader = OrderedBatches(data, batch_size=batch_size, batches=steps, given=seen)
    trainer = pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator=accelerator,
        devices=1,
        precision=precision,
        gradient_clip_val=1.0,
        logger=CSVLogger(str(directory), name="", version="", flush_logs_every_n_steps=100),
        log_every_n_steps=50,
        callbacks=[
            ModelCheckpoint(
                dirpath=directory,
                save_last=True,
                save_top_k=0,
                every_n_train_steps=checkpoint_every,
                # always the same name: another interval must not start a second file
                enable_version_counter=False,
            ),
            TQDMProgressBar(refresh_rate=10),
        ],
        enable_model_summary=False,
    )
    resume = str(newest) if newest.exists() else None
    trainer.fit(module, loader, ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(newest)
