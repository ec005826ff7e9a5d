"""Unlearning a concept by its latents in updates: SAeUron's percentile rule (arXiv 2501.18052).

At a timestep, a latent's score is its mean code on pictures with the concept minus its mean code on
the others. The latents whose score lies above a percentile of all scores are the concept's. During
generation their codes are multiplied by a number below 0 wherever they exceed their mean: the
concept is not only removed but pushed away.

Two deliberate differences. SAeUron edits a block's output with one SAE for all steps; here the
update is edited with the SAE of the window's t. SAeUron divides both means by their sums over
latents; this changes the order of latents only where the two groups differ in total activity.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffusae.backbone.blocks import Grid
from diffusae.errors import UserError
from diffusae.interventions.edits import own_codes
from diffusae.sae.autoencoder import SparseAutoencoder


@dataclass(frozen=True)
class ConceptLatents:
    """A concept's latents, the highest score first, with their mean codes over all pictures.

    Scores and means are in data units.
    """

    latents: Int[Tensor, " m"]
    scores: Float[Tensor, " m"]
    means: Float[Tensor, " m"]


def concept_scores(
    having: Float[Tensor, "n d_sae"], lacking: Float[Tensor, "m d_sae"]
) -> Float[Tensor, " d_sae"]:
    """Mean code with the concept minus mean code without (data units).

    Args:
        having, lacking: a row is one picture's mean over positions.

    Raises:
        UserError: a group without pictures.
    """
    if not len(having) or not len(lacking):
        raise UserError(
            f"{len(having)} pictures show the concept and {len(lacking)} do not; scores need some"
            " of both: collect more"
        )
    return having.float().mean(dim=0) - lacking.float().mean(dim=0)


def concept_latents(
    codes: Iterable[tuple[Float[Tensor, " d_sae"], bool]], *, percentile: float
) -> ConceptLatents:
    """The latents whose score reaches the percentile of all scores, and is above 0.

    Args:
        codes: the mean codes of each picture, and whether it shows the concept.
        percentile: range [0, 100); 99 keeps one in a hundred.

    Raises:
        UserError: a percentile out of range, a group without pictures, no score above 0.
    """
    if not 0 <= percentile < 100:
        raise UserError(
            f"percentile={percentile} must lie in [0, 100); change evaluation.defences.ablation"
        )
    given = list(codes)
    having, lacking = (
        [code for code, shown in given if shown is with_it] for with_it in (True, False)
    )
    if not having or not lacking:
        concept_scores(torch.zeros(len(having), 1), torch.zeros(len(lacking), 1))
    scores = concept_scores(torch.stack(having), torch.stack(lacking))
    chosen = (scores >= torch.quantile(scores, percentile / 100)) & (scores > 0)
    if not chosen.any():
        raise UserError(
            "no latent fires more with the concept than without; train this cell for longer"
        )
    order = scores.masked_fill(~chosen, -torch.inf).argsort(descending=True)[: int(chosen.sum())]
    means = torch.stack([code.float() for code, _ in given]).mean(dim=0)
    return ConceptLatents(order, scores[order], means[order])


class Unlearn:
    """Multiplies the concept's codes where they exceed their mean: x + sum_c (factor - 1) z_c f_c.

    Args:
        sae: of the block and branch, trained at the window's t.
        concept: its latents.
        factor: 0 ablates, below 0 pushes away.

    Raises:
        UserError: a factor above 0: it would not remove.
    """

    def __init__(self, sae: SparseAutoencoder, concept: ConceptLatents, *, factor: float) -> None:
        sae.require_one_stream()
        if factor > 0:
            raise UserError(f"factor={factor} must not be above 0 to remove a concept; lower it")
        self.sae, self.factor = sae, factor
        self.latents, self.means = concept.latents, concept.means

    def __call__(
        self, updates: Float[Tensor, "pictures P d_in"], grid: Grid
    ) -> Float[Tensor, "pictures P d_in"]:
        self.latents, self.means = self.latents.to(updates.device), self.means.to(updates)
        z = own_codes(self.sae, self.latents, updates)
        directions = self.sae.directions_of(self.latents).detach()
        return ((z > self.means) * (self.factor - 1) * z) @ directions
