"""An autoencoder whose input scaling is folded into its weights: the form that other libraries
know.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffusae.errors import UserError, together
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import Sparsity

CodeUnits = Literal["data", "scaled"]


@dataclass(frozen=True, eq=False)
class Folded:
    """z = S(W_enc (x - b_dec) + b_enc), x_hat = z W_dec + b_dec, with x and x_hat in the units of
    the data. A transcoder has z = S(W_enc x + b_enc).

    Attributes:
        W_enc, W_dec: [d_sae, d_in] and [d_sae, d_out], where d_out = d_in unless it transcodes.
        b_enc, b_dec: [d_sae] and [d_out].
        sparsity: S, any threshold in the units of these pre-activations.
        transcodes: whether the target is another vector than the input.
        code_units: of z. "data": as `SparseAutoencoder.encode` gives it; "scaled": that divided by
            `gains`.

    Raises:
        UserError: shapes that do not fit together, values that are not finite, k above d_sae.
    """

    W_enc: Float[Tensor, "d_sae d_in"]
    b_enc: Float[Tensor, " d_sae"]
    W_dec: Float[Tensor, "d_sae d_out"]
    b_dec: Float[Tensor, " d_out"]
    sparsity: Sparsity
    code_units: CodeUnits = "data"
    transcodes: bool = False

    def __post_init__(self) -> None:
        if self.W_dec.ndim != 2 or 0 in self.W_dec.shape:
            raise UserError(
                f"W_dec must be [d_sae, d_in], both at least 1, got {list(self.W_dec.shape)}; save"
                " it again"
            )
        d_sae, d_out = self.W_dec.shape
        d_in = self.W_enc.shape[-1] if self.transcodes and self.W_enc.ndim else d_out
        expected = {"W_enc": [d_sae, d_in], "b_enc": [d_sae], "b_dec": [d_out]}
        together(
            f"{name} must be {shape} beside W_dec [{d_sae}, {d_out}] (rows are latents), "
            f"got {list(getattr(self, name).shape)}; save it again"
            for name, shape in expected.items()
            if list(getattr(self, name).shape) != shape
        )
        together(
            f"{name} must be finite, and has NaN or infinite values; save a training that did not"
            " diverge"
            for name in (*expected, "W_dec")
            if not torch.isfinite(getattr(self, name)).all()
        )
        self.sparsity.check(d_sae)

    def of_unscaled(self, scale: float) -> Folded:
        """This autoencoder takes vectors that were divided by `scale`; the result takes them as
        they are, with the same pre-activations. A transcoder's target keeps its own units.
        """
        encoder = self.W_enc / scale
        if self.transcodes:
            return replace(self, W_enc=encoder)
        return replace(self, W_enc=encoder, W_dec=self.W_dec * scale, b_dec=self.b_dec * scale)


@torch.no_grad()
def fold(sae: SparseAutoencoder) -> Folded:
    """The same function of x with the input scaling inside the weights, equal to rounding.

    A latent's pre-activation times its gain gives codes in data units. Where gains differ
    (standardised entries, decoder rows of unlike norm), a sparsity that compares latents with each
    other would then choose others. In that case codes stay in scaled units, and the decoder rows
    carry the gains.
    """
    wide = {name: tensor.detach().cpu().double() for name, tensor in sae.state_dict().items()}
    scale, (bias, shift, out_scale) = wide["input_scale"], (part.double().cpu() for part in sae.out)
    W_dec = wide["W_dec"] * out_scale
    gains = W_dec.norm(dim=1)
    # The rows of a trained decoder have unit norm only to rounding.
    in_data_units = not sae.sparsity.compares or torch.allclose(
        gains, gains.mean(), rtol=1e-5, atol=0
    )
    factors = gains if in_data_units else torch.ones_like(gains)
    dtype = sae.W_dec.dtype
    W_enc, b_enc = factors[:, None] * wide["W_enc"] / scale, factors * wide["b_enc"]
    if sae.transcodes:  # nothing is taken off the input, since b_dec is the target's
        b_enc = b_enc - W_enc @ (wide["b"] * scale + wide["input_shift"])
    return Folded(
        W_enc=W_enc.to(dtype),
        b_enc=b_enc.to(dtype),
        W_dec=(F.normalize(W_dec, dim=1) if in_data_units else W_dec).to(dtype),
        b_dec=(bias.detach() * out_scale + shift).to(dtype),
        sparsity=sae.sparsity.in_use(factors),
        code_units="data" if in_data_units else "scaled",
        transcodes=sae.transcodes,
    )


@torch.no_grad()
def unfold(folded: Folded) -> SparseAutoencoder:
    """A float32 `SparseAutoencoder` without input scaling that computes the same x_hat.

    Its codes are in data units: z times the norm of the latent's decoder row. Other libraries do
    not normalise decoder rows, so the two differ where a row has another norm than 1.
    """
    d_sae, d_out = folded.W_dec.shape
    sae = SparseAutoencoder(
        folded.W_enc.shape[1],
        d_sae,
        folded.sparsity,
        encoder_bias=True,
        input_scaling="none",
        d_target=d_out if folded.transcodes else None,
    )
    for ours, theirs in (
        (sae.W_enc, "W_enc"),
        (sae.b_enc, "b_enc"),
        (sae.W_dec, "W_dec"),
        (sae.out.bias, "b_dec"),
    ):
        ours.copy_(getattr(folded, theirs))
    return sae.eval()
