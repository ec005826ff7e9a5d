"""Training of one sparse autoencoder with Lightning."""

from __future__ import annotations

import logging
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import MeanMetric

from diffusae.errors import UserError, together
from diffusae.sae.across_processes import average, world_size
from diffusae.sae.autoencoder import ScaledPass, SparseAutoencoder
from diffusae.sae.losses import (
    AuxK,
    Dead,
    auxk,
    longest_inactive,
    longest_inactive_of_k,
    normalised,
    total_variance,
)
from diffusae.sae.metrics import L0, FiringHistogram, Reconstruction, decoder_similarity
from diffusae.sae.step import Member
from diffusae.sae.whole_step import WholeStep

logger = logging.getLogger(__name__)

ADAM_EPSILON = 6.25e-10  # rare latents have tiny gradients: Adam's usual 1e-8 would freeze them
WARN_DEAD_FRACTION = 0.5


class SAEModule(WholeStep):
    """Adam on the normalised reconstruction error plus AuxK (Emergence, section 3 and appendix).

    Batches are vectors [batch, d_in] in data units; those of a transcoder are pairs [batch, d_in +
    d_target], and what is said of x and x_hat holds of the target and y_hat. Call `initialise` with
    a first batch before fitting. A decoder row keeps unit norm: before a step, the part of its
    gradient along itself is removed; after it, the row is normalised again.

    Logs `train/loss`, `train/fvu`, `train/aux_loss`, `train/dead_fraction` (not fired for
    `dead_after_vectors`), and over the whole validation set `val/loss`, `val/l0` and what
    `Reconstruction`, `FiringHistogram` and `decoder_similarity` give (`diffusae.sae.metrics`), for
    example `val/explained_variance` and `val/dead_fraction` (never fired in that set). The errors
    of `val/` are in data units; losses are in scaled units.

    Args:
        lr, betas, epsilon: Adam's; lr after warm-up.
        dead_after_vectors: a latent that has not fired for so many vectors counts as dead (*open*
            in the paper). It must be well below the vectors of the whole training, or AuxK never
            acts.
        aux_coefficient, k_aux: AuxK's weight and the most latents that it revives at once; 0
            switches it off.
        warmup_steps: steps over which lr rises linearly from 0.
        decay_steps: last steps of `total_steps` over which lr falls linearly to 0; needs
            `total_steps`.

    Raises:
        UserError: bad values, at once; during training, a loss that is not finite (with the step's
            number).
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
        epsilon: float = ADAM_EPSILON,
        aux_coefficient: float = 1 / 32,
        k_aux: int = 256,
        warmup_steps: int = 0,
        decay_steps: int = 0,
        total_steps: int | None = None,
    ) -> None:
        super().__init__()
        positive = {"lr": lr, "epsilon": epsilon, "dead_after_vectors": dead_after_vectors}
        counts = {"aux_coefficient": aux_coefficient, "k_aux": k_aux}
        counts |= {"warmup_steps": warmup_steps, "decay_steps": decay_steps}
        faults = [
            f"{name}={value} must be above 0; raise it"
            for name, value in positive.items()
            if not value > 0
        ]
        faults += [
            f"{name}={value} must not be below 0; raise it"
            for name, value in counts.items()
            if value < 0
        ]
        if decay_steps > 0 and total_steps is None:
            faults.append(
                f"decay_steps={decay_steps} needs total_steps; give it, or set decay_steps=0"
            )
        if total_steps is not None and warmup_steps + decay_steps > total_steps:
            faults.append(
                f"warmup_steps={warmup_steps} + decay_steps={decay_steps} exceed"
                f" total_steps={total_steps}; lower them"
            )
        together(faults)
        self.autoencoder = autoencoder
        self.lr, self.betas, self.epsilon = lr, betas, epsilon
        self.aux_coefficient, self.k_aux, self.dead_after_vectors = (
            aux_coefficient,
            k_aux,
            dead_after_vectors,
        )
        self.warmup_steps, self.decay_steps, self.total_steps = (
            warmup_steps,
            decay_steps,
            total_steps,
        )
        # 0 = not initialised. A buffer, so that a resumed training finds it in its checkpoint.
        self.register_buffer("total_variance", torch.zeros(()))
        self.register_buffer(
            "vectors_since_fired", torch.zeros(autoencoder.d_sae, dtype=torch.long)
        )
        self.reconstruction = Reconstruction(autoencoder.d_out)
        self.l0 = L0()
        self.firing = FiringHistogram(autoencoder.shard.of)
        self.validation_loss = MeanMetric()
        self.final_dead_fraction: float | None = None

    @torch.no_grad()
    def initialise(self, vectors: Float[Tensor, "n d_in"]) -> None:
        """Fit input scale, bias and loss normalisation to a first batch; `UserError` if it is
        constant.
        """
        self.autoencoder.initialise(vectors)
        _, targets = self.autoencoder.split(vectors.to(self.autoencoder.b))
        _, shift, scale = self.autoencoder.out
        variance = total_variance((targets - shift) / scale)
        if not variance > 0:
            raise UserError(
                "the first batch is constant: there is nothing to learn; give different vectors"
            )
        self.total_variance.copy_(variance)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.final_dead_fraction = None

    def on_train_start(self) -> None:
        if self.total_variance == 0:
            raise UserError(
                "the SAE was not initialised; call initialise(vectors) with a first batch before"
                " fitting"
            )

    def trained(self) -> dict[str, Member]:
        return {"": Member("", self)}

    def training_step(
        self, batch: Float[Tensor, "batch d_in"], batch_idx: int
    ) -> Float[Tensor, ""]:
        return self.take_step({"": batch})

    def gradients(
        self, batch: Float[Tensor, "batch d_in"], *, revive: bool | None = None
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Put the gradients of the loss into `grad` of the weights; return the loss and the figures
        to log. Afterwards, latents that did not fire have aged.

        Args:
            revive: whether there may be dead latents. None: look, and refuse a loss that is not
                finite, before there are gradients; with True or False, nothing waits for the
                device.
        """
        sae = self.autoencoder
        sae.give_up(W_enc=sae.W_enc.grad, W_dec=sae.W_dec.grad)
        sae.zero_grad()
        scaled = self.autoencoder.scaled_pass(batch)
        loss, fvu = self._loss(scaled)
        aux = self._revival(scaled, revive)
        total = loss.detach()
        if aux is not None:
            total = total + self.aux_coefficient * aux.loss
        if revive is None:
            self._refuse_non_finite(total)
        figures = {
            "loss": total,
            "fvu": fvu.detach(),
            "aux_loss": torch.zeros_like(total) if aux is None else aux.loss,
        }
        # Processes average their gradients and figures. Their parts of the last batch of an epoch
        # may differ in size, so each loss is weighted by its vectors.
        share = self._age_latents(len(batch), scaled.fired)
        if world_size() > 1:
            loss = loss * share
            figures = {name: figure * share for name, figure in figures.items()}
        weights = [weight for weight in self.autoencoder.parameters() if weight.requires_grad]
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        if aux is not None:
            aux.add_gradients(self.autoencoder, self.aux_coefficient * share)
        sae.give_up(centred=scaled.centred, errors=scaled.errors)
        return figures["loss"], {**figures, "dead_fraction": self._dead().float().mean()}

    def share_gradients(self) -> None:
        """Make gradients those of the whole batch, where processes have parts of it."""
        weights = self.autoencoder.parameters()
        average([weight.grad for weight in weights if weight.grad is not None])

    def clip_gradients(self, most: float) -> None:
        """Shorten the whole gradient to this norm where it is longer."""
        torch.nn.utils.clip_grad_norm_(self.autoencoder.parameters(), most)

    @property
    def revives(self) -> bool:
        """Whether there is AuxK."""
        return self.aux_coefficient > 0 and self.k_aux > 0

    def _revival(self, scaled: ScaledPass, revive: bool | None) -> AuxK | None:
        """AuxK of one pass; for `revive` see `gradients`."""
        dead = self._to_revive(revive) if self.revives else None
        if dead is None:
            return None
        return auxk(self.autoencoder, scaled.centred, scaled.error, dead, self.total_variance)

    def _to_revive(self, revive: bool | None) -> Dead | None:
        """The latents that AuxK revives; None: there are none."""
        looks = revive is None
        if not (bool(self._dead().any()) if looks else revive):
            return None
        choose = longest_inactive if looks else longest_inactive_of_k
        return choose(
            self.vectors_since_fired, dead_after=self.dead_after_vectors, k_aux=self.k_aux
        )

    def _dead(self) -> Bool[Tensor, " d_sae"]:
        return self.vectors_since_fired >= self.dead_after_vectors

    @torch.no_grad()
    def _age_latents(
        self, vectors: int, fired: Bool[Tensor, " d_sae"]
    ) -> float | Float[Tensor, ""]:
        """Make active latents young and all others older; return this process' vectors in shares of
        what processes have on average.
        """
        seen, share = vectors, 1.0
        if world_size() > 1:
            counts = torch.cat(
                [fired.long(), torch.full_like(fired[:1], vectors, dtype=torch.long)]
            )
            torch.distributed.all_reduce(counts)
            fired, seen = counts[:-1] > 0, counts[-1]
            share = vectors * world_size() / seen
        self.vectors_since_fired += seen
        self.vectors_since_fired.masked_fill_(fired, 0)
        return share

    def _loss(self, scaled: ScaledPass) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """The loss and the FVU. The loss is the error (the mean over the prefixes where the
        sparsity has them) plus the sparsity's penalty.
        """
        errors = normalised(scaled.squared_errors, len(scaled.centred), self.total_variance)
        loss = errors.mean()
        return loss if scaled.penalty is None else loss + scaled.penalty, errors[-1]

    def validation_step(self, batch: Float[Tensor, "batch d_in"], batch_idx: int) -> None:
        self.validate(batch)

    def validate(self, batch: Float[Tensor, "batch d_in"]) -> None:
        """Take one batch of the validation set into account."""
        scaled = self.autoencoder.scaled_pass(batch)
        loss, _ = self._loss(scaled)
        self._refuse_non_finite(loss)
        self.validation_loss.update(loss, weight=len(batch))
        # Errors are differences, so the shift of the input scaling does not count.
        _, targets = self.autoencoder.split(batch)
        self.reconstruction.update(targets + scaled.error * self.autoencoder.out.scale, targets)
        codes = self.autoencoder.sparsity.of_all(scaled.codes)
        self.l0.update(codes)
        self.firing.update(codes)

    def on_validation_epoch_end(self) -> None:
        self.log_dict({f"val/{name}": value for name, value in self.validation_figures().items()})

    def validation_figures(self) -> dict[str, Float[Tensor, ""]]:
        """The figures of the whole validation set, which is forgotten afterwards."""
        measured = {
            "loss": self.validation_loss.compute(),
            **self.reconstruction.compute(),
            "l0": self.l0.compute(),
            **self.firing.compute(),
            **decoder_similarity(self.autoencoder.directions, self.autoencoder.shard),
        }
        if not self.trainer.sanity_checking:
            self.final_dead_fraction = float(measured["dead_fraction"])
        for metric in (self.validation_loss, self.reconstruction, self.l0, self.firing):
            metric.reset()
        return {name: value.float() for name, value in measured.items()}

    def on_train_end(self) -> None:
        super().on_train_end()
        self.refuse_broken_weights()
        warning = self.dead_warning()
        if warning and self.trainer.is_global_zero:
            logger.warning(warning)

    def refuse_broken_weights(self) -> None:
        """Raise `UserError` where the last step left weights that are not finite: no loss comes
        after it that would show this.
        """
        if self._weights_are_broken():
            raise UserError(
                f"the weights are not finite after step {self.global_step}; "
                f"lower the learning rate (now {self.lr:g})"
            )

    def _weights_are_broken(self) -> bool:
        finite = [weight.isfinite().all() for weight in self.autoencoder.parameters()]
        return not bool(torch.stack(finite).all())

    def dead_warning(self) -> str | None:
        """A remedy where most latents are dead in the validation set, or, without one, by their
        age; None where they are not.
        """
        dead = self.final_dead_fraction
        if dead is None:
            dead = float(self._dead().float().mean())
        if dead <= WARN_DEAD_FRACTION:
            return None
        return (
            f"{100 * dead:.0f} % of the {self.firing.d_sae} latents are dead. Try"
            " sae.input_scaling=standardise, a smaller dead_after_vectors (now"
            f" {self.dead_after_vectors}) so that AuxK acts sooner, a higher lr (now {self.lr:g}),"
            " more vectors, or a smaller d_sae."
        )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adam(self.autoencoder.parameters(), self)

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
            raise self.not_finite(float(loss.detach()), self.global_step)

    def not_finite(self, loss: float, step: int) -> UserError:
        """The error of a loss that is not finite."""
        return UserError(
            f"the loss is {loss} at step {step}; lower the learning rate (now {self.lr:g}), or look"
            " for activations that are not finite. The last checkpoint before this step is good"
        )


def adam(parameters: Any, module: SAEModule) -> torch.optim.Adam:
    """The optimiser of all trainings, with the module's settings; `parameters` as
    `torch.optim.Adam` takes them.
    """
    return torch.optim.Adam(
        parameters, lr=module.lr, betas=module.betas, eps=module.epsilon, fused=True
    )
