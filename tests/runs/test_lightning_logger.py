from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from diffusae.runs.lightning_logger import JsonlLogger
from diffusae.runs.metric_log import read_metrics


class Falling(pl.LightningModule):
    """Logs the loss 1 / (1 + step)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.log("train/loss", 1.0 / (1 + self.global_step))
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Listener:
    def __init__(self) -> None:
        self.heard: list[tuple[int, float]] = []

    def log(self, metrics, *, step: int) -> None:
        self.heard.append((step, metrics["train/loss"]))


@pytest.mark.filterwarnings("ignore")
def test_lightning_logs_the_same_rows_to_the_file_and_to_the_mirror(tmp_path: Path):
    mirror = Listener()
    logger = JsonlLogger(tmp_path / "metrics.jsonl", mirror=mirror)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=logger,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Falling(), DataLoader(TensorDataset(torch.zeros(4, 1))))
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert [row["train/loss"] for row in rows] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert mirror.heard == [(row["step"], row["train/loss"]) for row in rows]
