"""Two processes that share every batch train the autoencoder that one process trains."""

from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy

from diffusae.activations.datamodule import ActivationDataModule
from diffusae.runs.lightning_logger import JsonlLogger
from diffusae.runs.metric_log import read_metrics
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.module import SAEModule
from diffusae.sae.sparsity import TopK
from small_collections import stream_of, write_random


@pytest.fixture
def collection(tmp_path) -> Path:
    """13 training pictures of 10 vectors: batches of 16 end with one of 2."""
    groups = [("train", 5), ("train", 8), ("validation", 2)]
    return write_random(tmp_path / "activations", [stream_of((2, 5), 6)], groups)


def trained(root: Path, log: Path, *, processes: int) -> tuple[dict[str, torch.Tensor], list[dict]]:
    data = ActivationDataModule(
        root, block="mid", t=0.5, conditioning="cond", batch_size=16, buffer_vectors=48, seed=3
    )
    sae = SparseAutoencoder(6, 24, TopK(3), seed=1)
    module = SAEModule(sae, dead_after_vectors=40, lr=1e-2)
    module.initialise(next(iter(data.val_dataloader())))
    together = DDPStrategy(process_group_backend="gloo", start_method="spawn")
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=processes,
        logger=JsonlLogger(log),
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        strategy=together if processes > 1 else "auto",
    )
    trainer.fit(module, datamodule=data)
    return {name: value.clone() for name, value in module.state_dict().items()}, read_metrics(log)


# `diffusae train` in two processes is compared with one in test_several_processes
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_processes_give_the_loss_and_the_weights_of_one(collection, tmp_path):
    one, alone = trained(collection, tmp_path / "one.jsonl", processes=1)
    two, together = trained(collection, tmp_path / "two.jsonl", processes=2)
    losses = [
        [row["train/fvu"] for row in rows if "train/fvu" in row] for rows in (alone, together)
    ]
    assert len(losses[0]) == 18
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    assert torch.equal(one["vectors_since_fired"], two["vectors_since_fired"])
    for name in ("autoencoder.W_enc", "autoencoder.W_dec", "autoencoder.b"):
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-6)
