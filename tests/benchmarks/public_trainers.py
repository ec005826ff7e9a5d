"""One training step of TopK SAEs by public libraries, through their own code.

Every class takes (d_in, d_sae, k, dead latents, lr, device). `step(x)` is one whole step: forward,
backward, Adam, bookkeeping. With dead > 0, AuxK is on and that many latents count as dead at every
step; how AuxK uses them is the library's choice. `reconstructed(x)` is x_hat after the steps so
far. Libraries are imported at their use, because any may be missing.
"""

import os
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

LONG_AGO = 10**9


class Sparsify:
    """eai-sparsify: the step of `Trainer.fit`, whose loop needs a language model."""

    def __init__(
        self, d_in: int, d_sae: int, k: int, dead: int = 0, lr: float = 1e-4, device: str = "cpu"
    ) -> None:
        if device == "cpu":  # its Triton decoder is for GPUs, but it is used if Triton is installed
            os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")
        from sparsify.config import SparseCoderConfig  # type: ignore[import-not-found]
        from sparsify.sparse_coder import SparseCoder  # type: ignore[import-not-found]

        self.coder = SparseCoder(d_in, SparseCoderConfig(num_latents=d_sae, k=k), device=device)
        self.optimizer = torch.optim.Adam(self.coder.parameters(), lr=lr)
        self.since_fired = torch.zeros(d_sae, dtype=torch.long, device=device)
        self.dead = dead

    def step(self, x: Tensor) -> None:
        self.since_fired[: self.dead] = LONG_AGO
        self.coder.set_decoder_norm_to_unit_norm()
        out = self.coder(x, dead_mask=self.since_fired > LONG_AGO // 2 if self.dead else None)
        (out.fvu + out.auxk_loss / 32).backward()
        self.coder.remove_gradient_parallel_to_decoder_directions()
        self.optimizer.step()
        self.optimizer.zero_grad()
        fired = torch.zeros_like(self.since_fired, dtype=torch.bool)
        fired[out.latent_indices.flatten()] = True
        self.since_fired += len(x)
        self.since_fired[fired] = 0

    @torch.no_grad()
    def reconstructed(self, x: Tensor) -> Tensor:
        return self.coder(x).sae_out


class LeftOut(ModuleType):
    """A module whose every name is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def without_pictures() -> None:
    """Make overcomplete importable without a torchvision for this torch.

    Its vision models need torchvision, and its plots a matplotlib before 3.9; its SAEs and their
    training need neither.
    """
    if find_spec("overcomplete") is not None and find_spec("torchvision") is None:
        for part in ("overcomplete.models", "overcomplete.visualization"):
            sys.modules.setdefault(part, LeftOut(part))


class Overcomplete:
    """overcomplete: `train_sae` over one batch. Its AuxK takes half of all latents, dead or not."""

    def __init__(
        self, d_in: int, d_sae: int, k: int, dead: int = 0, lr: float = 1e-4, device: str = "cpu"
    ) -> None:
        without_pictures()
        from overcomplete.sae import TopKSAE  # type: ignore[import-not-found]
        from overcomplete.sae.losses import top_k_auxiliary_loss  # type: ignore[import-not-found]
        from overcomplete.sae.train import train_sae  # type: ignore[import-not-found]

        def error(x: Tensor, x_hat: Tensor, *_rest: Tensor) -> Tensor:
            return (x - x_hat).square().mean()

        self.train, self.device = train_sae, device
        self.sae = TopKSAE(d_in, d_sae, top_k=k, device=device)
        self.optimizer = torch.optim.Adam(self.sae.parameters(), lr=lr)
        self.criterion: Callable[..., Tensor] = top_k_auxiliary_loss if dead else error

    def step(self, x: Tensor) -> None:
        options = {"nb_epochs": 1, "monitoring": 0, "device": self.device}
        self.train(self.sae, [x], self.criterion, self.optimizer, **options)

    @torch.no_grad()
    def reconstructed(self, x: Tensor) -> Tensor:
        return self.sae(x)[2]


class DictionaryLearning:
    """dictionary-learning: `TopKTrainer.update`."""

    def __init__(
        self, d_in: int, d_sae: int, k: int, dead: int = 0, lr: float = 1e-4, device: str = "cpu"
    ) -> None:
        from dictionary_learning.trainers.top_k import TopKTrainer  # type: ignore[import-not-found]

        sizes = {"activation_dim": d_in, "dict_size": d_sae, "k": k, "auxk_alpha": dead and 1 / 32}
        self.trainer = TopKTrainer(steps=10**6, layer=0, lm_name="", device=device, lr=lr, **sizes)
        self.dead, self.auxiliary_loss = dead, self.trainer.get_auxiliary_loss
        self.trainer.get_auxiliary_loss = self.with_dead_latents

    def with_dead_latents(self, *arguments: Tensor) -> Tensor:
        # Not before the step: it resets latents that fire before it reaches AuxK.
        self.trainer.num_tokens_since_fired[: self.dead] = LONG_AGO
        loss = self.auxiliary_loss(*arguments)
        assert self.trainer.dead_features == self.dead
        return loss

    def step(self, x: Tensor) -> None:
        self.trainer.update(1, x)  # step 0 would fit the bias

    @torch.no_grad()
    def reconstructed(self, x: Tensor) -> Tensor:
        return self.trainer.ae(x)


class SAELens:
    """sae-lens: `SAETrainer.step`."""

    def __init__(
        self, d_in: int, d_sae: int, k: int, dead: int = 0, lr: float = 1e-4, device: str = "cpu"
    ) -> None:
        from sae_lens.config import SAETrainerConfig  # type: ignore[import-not-found]
        from sae_lens.saes.topk_sae import (  # type: ignore[import-not-found]
            TopKTrainingSAE,
            TopKTrainingSAEConfig,
        )
        from sae_lens.training.sae_trainer import SAETrainer  # type: ignore[import-not-found]

        config = SAETrainerConfig(
            total_training_samples=10**9, train_batch_size_samples=4096, lr=lr, lr_end=lr,
            device=device,
        )  # fmt: skip
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=d_in, d_sae=d_sae, k=k, device=device))
        nothing: Iterator[Tensor] = iter(())
        self.trainer: Any = SAETrainer(config, sae, nothing)
        self.dead = dead

    def step(self, x: Tensor) -> None:
        self.trainer.n_forward_passes_since_fired[: self.dead] = LONG_AGO
        assert self.trainer.dead_neurons.sum() == self.dead
        self.trainer.step(x)

    @torch.no_grad()
    def reconstructed(self, x: Tensor) -> Tensor:
        return self.trainer.sae(x)


PUBLIC = {
    "eai-sparsify": Sparsify,
    "overcomplete": Overcomplete,
    "dictionary-learning": DictionaryLearning,
    "sae-lens": SAELens,
}


def public_trainers(
    d_in: int, d_sae: int, k: int, *, dead: int = 0, lr: float = 1e-4, device: str = "cpu"
) -> dict[str, Any]:
    """A trainer of every installed library; the others are named on stdout."""
    trainers = {}
    for name, trainer_of in PUBLIC.items():
        try:
            trainers[name] = trainer_of(d_in, d_sae, k, dead, lr, device)
        except ImportError as error:
            print(f"  {name}: left out, {error}; `make setup-compare` installs it")
    return trainers
