"""One training step of TopK SAEs as public libraries carry it out, through their own code.

Each class takes (d_in, d_sae, k, dead latents); `step(x)` is one whole step: forward, backward, Adam, bookkeeping.
With dead > 0, AuxK is on and that many latents count as dead at every step; what AuxK does with them is the library's
own choice. Libraries are imported where they are used: any may be missing.
"""

import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

LONG_AGO = 10**9


class Sparsify:
    """eai-sparsify: what `Trainer.fit` does around a `SparseCoder`, whose loop is tied to a language model."""

    def __init__(self, d_in: int, d_sae: int, k: int, dead: int) -> None:
        from sparsify.config import SparseCoderConfig  # type: ignore[import-not-found]
        from sparsify.sparse_coder import SparseCoder  # type: ignore[import-not-found]

        self.coder = SparseCoder(d_in, SparseCoderConfig(num_latents=d_sae, k=k))
        self.optimizer = torch.optim.Adam(self.coder.parameters(), lr=1e-4)
        self.since_fired = torch.zeros(d_sae, dtype=torch.long)
        self.dead = dead

    def step(self, x: Tensor) -> None:
        self.since_fired[: self.dead] = LONG_AGO
        self.coder.set_decoder_norm_to_unit_norm()
        out = self.coder(x, dead_mask=self.since_fired > LONG_AGO // 2 if self.dead else None)
        (out.fvu + out.auxk_loss / 32).backward()
        self.coder.remove_gradient_parallel_to_decoder_directions()
        self.optimizer.step()
        self.optimizer.zero_grad()
        fired = torch.zeros(len(self.since_fired), dtype=torch.bool)
        fired[out.latent_indices.flatten()] = True
        self.since_fired += len(x)
        self.since_fired[fired] = 0


class LeftOut(ModuleType):
    """A module whose every name is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def without_pictures() -> None:
    """Let overcomplete be imported where there is no torchvision for this torch.

    Its vision models need that, and its plots a matplotlib of before 3.9; its SAEs and their training need neither.
    """
    if find_spec("overcomplete") is not None and find_spec("torchvision") is None:
        for part in ("overcomplete.models", "overcomplete.visualization"):
            sys.modules.setdefault(part, LeftOut(part))


class Overcomplete:
    """overcomplete: `train_sae` over one batch. Its AuxK takes half of all latents, dead or not."""

    def __init__(self, d_in: int, d_sae: int, k: int, dead: int) -> None:
        without_pictures()
        from overcomplete.sae import TopKSAE  # type: ignore[import-not-found]
        from overcomplete.sae.losses import top_k_auxiliary_loss  # type: ignore[import-not-found]
        from overcomplete.sae.train import train_sae  # type: ignore[import-not-found]

        def error(x: Tensor, x_hat: Tensor, *_rest: Tensor) -> Tensor:
            return (x - x_hat).square().mean()

        self.train = train_sae
        self.sae = TopKSAE(d_in, d_sae, top_k=k)
        self.optimizer = torch.optim.Adam(self.sae.parameters(), lr=1e-4)
        self.criterion: Callable[..., Tensor] = top_k_auxiliary_loss if dead else error

    def step(self, x: Tensor) -> None:
        self.train(
            self.sae, [x], self.criterion, self.optimizer, nb_epochs=1, monitoring=0, device="cpu"
        )  # fmt: skip


class DictionaryLearning:
    """dictionary-learning: `TopKTrainer.update`."""

    def __init__(self, d_in: int, d_sae: int, k: int, dead: int) -> None:
        from dictionary_learning.trainers.top_k import TopKTrainer  # type: ignore[import-not-found]

        self.trainer = TopKTrainer(
            steps=10**6, activation_dim=d_in, dict_size=d_sae, k=k, layer=0, lm_name="", device="cpu", lr=1e-4,
            auxk_alpha=1 / 32 if dead else 0,
        )  # fmt: skip
        self.dead = dead

    def step(self, x: Tensor) -> None:
        self.trainer.num_tokens_since_fired[: self.dead] = LONG_AGO
        self.trainer.update(1, x)  # step 0 would fit the bias


class SAELens:
    """sae-lens: `SAETrainer.step`."""

    def __init__(self, d_in: int, d_sae: int, k: int, dead: int) -> None:
        from sae_lens.config import SAETrainerConfig  # type: ignore[import-not-found]
        from sae_lens.saes.topk_sae import (  # type: ignore[import-not-found]
            TopKTrainingSAE,
            TopKTrainingSAEConfig,
        )
        from sae_lens.training.sae_trainer import SAETrainer  # type: ignore[import-not-found]

        config = SAETrainerConfig(
            total_training_samples=10**9, train_batch_size_samples=4096, lr=1e-4, lr_end=1e-4
        )
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=d_in, d_sae=d_sae, k=k))
        nothing: Iterator[Tensor] = iter(())
        self.trainer: Any = SAETrainer(config, sae, nothing)
        self.dead = dead

    def step(self, x: Tensor) -> None:
        self.trainer.n_forward_passes_since_fired[: self.dead] = LONG_AGO
        self.trainer.step(x)


PUBLIC = {
    "eai-sparsify": Sparsify,
    "overcomplete": Overcomplete,
    "dictionary-learning": DictionaryLearning,
    "sae-lens": SAELens,
}
