"""Training of one sparse autoencoder with Lightning."""

from __future__ import annotations

import logging
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from diffusae.errors import UserError, together
from diffusae.sae.autoencoder import ScaledPass, SparseAutoencoder
from diffusae.sae.losses import auxk_loss, longest_inactive, normalised_mse, total_variance
from diffusae.sae.metrics import L0, DeadFraction, Reconstruction
from diffusae.sae.sparsity import Codes

logger = logging.getLogger(__name__)

ADAM_EPSILON = 6.25e-10  # rare latents have tiny gradients: the default 1e-8 would freeze them
WARN_DEAD_FRACTION = 0.5


class SAEModule(pl.LightningModule):
    """Adam on the normalised reconstruction error plus AuxK (Emergence, section 3 and appendix).

    Batches are vectors [batch, d_in] in data units. Call `initialise` with a first batch before fitting. A
    decoder row keeps unit norm: the part of its gradient along itself is removed before each step, and the
    row is renormalised after.

    Logs `train/loss`, `train/fvu`, `train/aux_loss`, `train/dead_fraction` (not fired for
    `dead_after_vectors`), and over the whole validation set `val/loss`, `val/fvu`, `val/explained_variance`,
    `val/scaled_mse`, `val/l0`, `val/dead_fraction` (never fired in that set). The errors of `val/` are in
    data units; losses are in scaled units.

    Args:
        lr: Adam's learning rate, after warm-up.
        dead_after_vectors: vectors without firing after which a latent counts as dead (*open* in the paper).
            It must be well below the vectors of the whole training, or AuxK never acts.
        aux_coefficient, k_aux: AuxK's weight and the most latents that it revives at once; 0 switches it off.
        warmup_steps: steps over which lr rises linearly from 0.
        decay_steps: last steps of `total_steps` over which lr falls linearly to 0; needs `total_steps`.

    Raises:
        UserError: bad values, at once; during training, a loss that is not finite (with the step's number).
    """

    total_variance: Tensor
    vectors_since_fired: Tensor

    def __init__(
        self,
        autoencoder: SparseAutoencoder,
        *,
        dead_after_vectors: int,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        aux_coefficient: float = 1 / 32,
        k_aux: int = 256,
        warmup_steps: int = 0,
        decay_steps: int = 0,
        total_steps: int | None = None,
    ) -> None:
        super().__init__()
        positive = {"lr": lr, "dead_after_vectors": dead_after_vectors}
        counts = {"aux_coefficient": aux_coefficient, "k_aux": k_aux}
        counts |= {"warmup_steps": warmup_steps, "decay_steps": decay_steps}
        faults = [
            f"{name}={value} must be above 0; raise it" for name, value in positive.items() if not value > 0
        ]
        faults += [
            f"{name}={value} must not be below 0; raise it" for name, value in counts.items() if value < 0
        ]
        if decay_steps > 0 and total_steps is None:
            faults.append(f"decay_steps={decay_steps} needs total_steps; give it, or set decay_steps=0")
        if total_steps is not None and warmup_steps + decay_steps > total_steps:
            faults.append(
                f"warmup_steps={warmup_steps} + decay_steps={decay_steps} exceed total_steps={total_steps}; "
                "lower them"
            )
        together(faults)
        self.autoencoder = autoencoder
        self.lr, self.betas = lr, betas
        self.aux_coefficient, self.k_aux, self.dead_after_vectors = aux_coefficient, k_aux, dead_after_vectors
        self.warmup_steps, self.decay_steps, self.total_steps = warmup_steps, decay_steps, total_steps
        # 0 = not initialised. A buffer, so that a resumed training finds it in its checkpoint.
        self.register_buffer("total_variance", torch.zeros(()))
        self.register_buffer("vectors_since_fired", torch.zeros(autoencoder.d_sae, dtype=torch.long))
        self.reconstruction = Reconstruction(autoencoder.d_in)
        self.l0 = L0()
        self.dead_fraction = DeadFraction(autoencoder.d_sae)
        self.final_dead_fraction: float | None = None

    @torch.no_grad()
    def initialise(self, vectors: Float[Tensor, "n d_in"]) -> None:
        """Fit input scale, bias and loss normalisation to a first batch; `UserError` if it is constant."""
        self.autoencoder.initialise(vectors)
        variance = total_variance(self.autoencoder.scale(vectors.to(self.autoencoder.b)))
        if not variance > 0:
            raise UserError("the first batch is constant: there is nothing to learn; give different vectors")
        self.total_variance.copy_(variance)

    def on_fit_start(self) -> None:
        self.final_dead_fraction = None

    def on_train_start(self) -> None:
        if self.total_variance == 0:
            raise UserError(
                "the SAE was not initialised; call initialise(vectors) with a first batch before fitting"
            )

    def training_step(self, batch: Float[Tensor, "batch d_in"], batch_idx: int) -> Float[Tensor, ""]:
        scaled = self.autoencoder.scaled_pass(batch)
        fvu = normalised_mse(scaled.x_hat, scaled.x, self.total_variance)
        loss = self._loss(scaled, fvu)
        dead = longest_inactive(
            self.vectors_since_fired, dead_after=self.dead_after_vectors, k_aux=self.k_aux
        )
        aux = torch.zeros_like(fvu)
        if len(dead) > 0 and self.aux_coefficient > 0:
            aux = auxk_loss(self.autoencoder, scaled.x, scaled.x - scaled.x_hat, dead, self.total_variance)
            loss = loss + self.aux_coefficient * aux
        self._refuse_non_finite(loss)
        # Processes average their gradients and figures; the last batch of an epoch may not have equal parts.
        share = len(batch) * _world_size() / self._age_latents(scaled.codes)
        loss = loss * share
        measured = {
            "loss": loss.detach(),
            "fvu": fvu.detach() * share,
            "aux_loss": aux.detach() * share,
            "dead_fraction": (self.vectors_since_fired >= self.dead_after_vectors).float().mean(),
        }
        self.log_dict(
            {f"train/{name}": value for name, value in measured.items()}, sync_dist=_world_size() > 1
        )
        return loss

    @torch.no_grad()
    def _age_latents(self, codes: Codes) -> int:
        """Make active latents young and all others older; return the vectors of this step over all processes."""
        fired = torch.zeros_like(self.vectors_since_fired)
        fired[codes.indices[codes.values > 0]] = 1
        seen = len(codes.values)
        if _world_size() > 1:
            vectors = fired.new_tensor(seen)
            torch.distributed.all_reduce(fired, op=torch.distributed.ReduceOp.MAX)
            torch.distributed.all_reduce(vectors)
            seen = int(vectors)
        self.vectors_since_fired += seen
        self.vectors_since_fired.masked_fill_(fired > 0, 0)
        return seen

    def _loss(self, scaled: ScaledPass, fvu: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The error, over all prefixes where the sparsity has them, plus the sparsity's penalty."""
        errors = [normalised_mse(prefix, scaled.x, self.total_variance) for prefix in scaled.prefixes]
        loss = torch.stack([*errors, fvu]).mean() if errors else fvu
        return loss if scaled.penalty is None else loss + scaled.penalty

    def validation_step(self, batch: Float[Tensor, "batch d_in"], batch_idx: int) -> None:
        scaled = self.autoencoder.scaled_pass(batch)
        loss = self._loss(scaled, normalised_mse(scaled.x_hat, scaled.x, self.total_variance))
        self._refuse_non_finite(loss)
        self.log("val/loss", loss, on_epoch=True, batch_size=len(batch))
        self.reconstruction.update(self.autoencoder.unscale(scaled.x_hat), batch)
        self.l0.update(scaled.codes)
        self.dead_fraction.update(scaled.codes)

    def on_validation_epoch_end(self) -> None:
        measured = self.reconstruction.compute() | {
            "l0": self.l0.compute(),
            "dead_fraction": self.dead_fraction.compute(),
        }
        self.log_dict({f"val/{name}": value.float() for name, value in measured.items()})
        if not self.trainer.sanity_checking:
            self.final_dead_fraction = float(measured["dead_fraction"])
        for metric in (self.reconstruction, self.l0, self.dead_fraction):
            metric.reset()

    def on_train_end(self) -> None:
        # The last step has no later loss that would show what it did.
        if not all(torch.isfinite(parameter).all() for parameter in self.autoencoder.parameters()):
            raise UserError(
                f"the weights are not finite after step {self.global_step}; "
                f"lower the learning rate (now {self.lr:g})"
            )
        # The validation set's figure where there is one; it comes before this hook.
        dead = self.final_dead_fraction
        if dead is None:
            dead = float((self.vectors_since_fired >= self.dead_after_vectors).float().mean())
        if dead > WARN_DEAD_FRACTION:
            logger.warning(
                "%.0f %% of the %d latents are dead. Try sae.input_scaling=standardise, a smaller "
                "dead_after_vectors (now %d) so that AuxK acts sooner, a higher lr (now %g), more vectors, "
                "or a smaller d_sae.",
                100 * dead,
                self.autoencoder.d_sae,
                self.dead_after_vectors,
                self.lr,
            )

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.autoencoder.project_decoder_gradient()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.autoencoder.project()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.Adam(
            self.autoencoder.parameters(), lr=self.lr, betas=self.betas, eps=ADAM_EPSILON, fused=True
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def lr_factor(self, step: int) -> float:
        """What `lr` is multiplied by at a step, counted from 0: warm-up, 1, decay."""
        factor = 1.0
        if self.warmup_steps > 0:
            factor = min(factor, (step + 1) / self.warmup_steps)
        if self.decay_steps > 0 and self.total_steps is not None:
            factor = min(factor, max(0.0, (self.total_steps - step) / self.decay_steps))
        return factor

    def _refuse_non_finite(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise UserError(
                f"the loss is {float(loss)} at step {self.global_step}; lower the learning rate "
                f"(now {self.lr:g}), or look for activations that are not finite. "
                "The last checkpoint before this step is good"
            )


def _world_size() -> int:
    """Processes that train together."""
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if ready else 1
