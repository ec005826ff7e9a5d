"""The sparse autoencoder: z = TopK(ReLU(W_enc (x - b))), x_hat = W_dec z + b (Emergence, section 3)."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diffusae.errors import UserError, unknown
from diffusae.sae.sparse_ops import selected_pre_activations, sparse_decode
from diffusae.sae.sparsity import Codes, Sparsity

InputScaling = Literal["none", "mean_norm", "standardise"]


class ScaledPass(NamedTuple):
    """One differentiable pass in scaled units, as training needs it."""

    x: Float[Tensor, "batch d_in"]
    x_hat: Float[Tensor, "batch d_in"]
    codes: Codes


class SparseAutoencoder(nn.Module):
    """A sparse autoencoder of vectors [d_in], with one bias b before the encoder and after the decoder.

    Two systems of units. Inside, vectors are scaled, (x - input_shift) / input_scale, because raw activations
    of some models leave most latents dead; the paper does not state its input normalisation. Outside,
    everything is in the units of the data: `encode` gives codes z with x_hat = sum_c z_c f_c + constant,
    where f_c = `directions[c]` has unit norm. So a code says how far its latent moves the update, whatever
    the scaling.

    Weights: `W_enc` and `W_dec` are both [d_sae, d_in]; rows of `W_dec` have unit norm, and `W_enc` begins as
    its copy (both *open* in the paper; a public relative with the same numbers does so).

    Args:
        d_in: entries of a vector.
        d_sae: latents.
        sparsity: what chooses the active latents, for example `TopK(20)`.
        input_scaling: "none"; "mean_norm": divided by one number such that the mean norm is sqrt(d_in);
            "standardise": every entry to mean 0 and standard deviation 1. Fitted by `initialise`.
        seed: of the random directions that the decoder begins with.

    Raises:
        UserError: d_in or d_sae below 1, k above d_sae, an unknown scaling.
    """

    input_shift: Tensor
    input_scale: Tensor

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        sparsity: Sparsity,
        *,
        input_scaling: InputScaling = "mean_norm",
        seed: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if d_in < 1 or d_sae < 1:
            raise UserError(
                f"d_in={d_in} and d_sae={d_sae} must be at least 1; raise sae.expansion or sae.d_sae"
            )
        if sparsity.k > d_sae:
            raise UserError(f"k={sparsity.k} exceeds d_sae={d_sae}; lower sae.k")
        if input_scaling not in get_args(InputScaling):
            raise unknown("input scaling", input_scaling, get_args(InputScaling))
        self.d_in, self.d_sae, self.sparsity, self.input_scaling = d_in, d_sae, sparsity, input_scaling
        # Drawn on the CPU, so that a seed means the same directions on every device.
        drawn = torch.randn(d_sae, d_in, generator=torch.Generator().manual_seed(seed), dtype=dtype)
        directions = F.normalize(drawn, dim=1).to(device)
        self.W_enc = nn.Parameter(directions.clone())
        self.W_dec = nn.Parameter(directions)
        self.b = nn.Parameter(torch.zeros(d_in, device=device, dtype=dtype))
        self.register_buffer("input_shift", torch.zeros(d_in, device=device, dtype=dtype))
        self.register_buffer("input_scale", torch.ones(d_in, device=device, dtype=dtype))

    @torch.no_grad()
    def initialise(self, vectors: Float[Tensor, "n d_in"]) -> None:
        """Fit the input scaling to `vectors` (a first, mixed batch) and put b at their geometric median.

        Raises:
            UserError: no vectors, wrong width, or values that are not finite.
        """
        if vectors.ndim != 2 or len(vectors) == 0 or vectors.shape[1] != self.d_in:
            raise UserError(f"expected vectors of shape [n > 0, {self.d_in}], got {list(vectors.shape)}")
        if not torch.isfinite(vectors).all():
            raise UserError(
                "the vectors to initialise from are not all finite; collect the activations again"
            )
        vectors = vectors.to(self.b)
        if self.input_scaling == "mean_norm":
            mean_norm = vectors.norm(dim=1).mean() / math.sqrt(self.d_in)
            self.input_scale.fill_(mean_norm if mean_norm > 0 else 1.0)
        elif self.input_scaling == "standardise":
            self.input_shift.copy_(vectors.mean(dim=0))
            deviation = vectors.std(dim=0, correction=0)
            # A constant entry has nothing to scale; 1 keeps it finite.
            self.input_scale.copy_(torch.where(deviation > 0, deviation, torch.ones_like(deviation)))
        self.b.copy_(geometric_median(self.scale(vectors)))

    def scale(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_in"]:
        """Data units to scaled units."""
        return (x.to(self.b.dtype) - self.input_shift) / self.input_scale

    def unscale(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_in"]:
        """Scaled units to data units."""
        return x * self.input_scale + self.input_shift

    @property
    def gains(self) -> Float[Tensor, " d_sae"]:
        """What one scaled unit of each latent is worth in data units: norms of W_dec's rows in data units."""
        return (self.W_dec * self.input_scale).norm(dim=1)

    @property
    def directions(self) -> Float[Tensor, "d_sae d_in"]:
        """The concept vectors f_c: decoder rows in data units, of unit norm."""
        return F.normalize(self.W_dec * self.input_scale, dim=1)

    def scaled_pass(self, x: Float[Tensor, "batch d_in"]) -> ScaledPass:
        """Encode and decode in scaled units, differentiably, at the cost of the k chosen latents."""
        x = self.scale(x)
        centred = x - self.b
        with torch.no_grad():
            pre_activations = centred @ self.W_enc.T
            indices = self.sparsity(pre_activations).indices
        values = selected_pre_activations(centred, self.W_enc, pre_activations, indices).relu()
        return ScaledPass(x, sparse_decode(values, indices, self.W_dec) + self.b, Codes(values, indices))

    def pre_activations(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        """W_enc (x - b) of every latent, in scaled units: the numbers that the sparsity compares.

        `relu(pre_activations(x)) * gains` are dense activations in data units.
        """
        return (self.scale(x) - self.b) @ self.W_enc.T

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "... d_in"]) -> Codes:
        """Sparse codes in data units. Not differentiable: training uses `scaled_pass`."""
        values, indices = self.sparsity(self.pre_activations(x))
        return Codes(values * self.gains[indices], indices)

    @torch.no_grad()
    def encode_dense(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        """The same codes as a dense tensor, zero where a latent is not active."""
        values, indices = self.encode(x)
        return values.new_zeros(*values.shape[:-1], self.d_sae).scatter_(-1, indices, values)

    @torch.no_grad()
    def decode(self, codes: Codes) -> Float[Tensor, "... d_in"]:
        """x_hat in data units from codes in data units."""
        return sparse_decode(codes.values, codes.indices, self.directions) + self.unscale(self.b)

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_in"]:
        """x_hat in data units."""
        return self.decode(self.encode(x))

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Bring the rows of W_dec back to unit norm, after a step moved them."""
        self.W_dec.copy_(F.normalize(self.W_dec, dim=1))

    @torch.no_grad()
    def project_decoder_gradient(self) -> None:
        """Remove from W_dec's gradient what would only lengthen its rows: the normalisation would undo it."""
        if self.W_dec.grad is not None:
            parallel = (self.W_dec.grad * self.W_dec).sum(dim=1, keepdim=True)
            self.W_dec.grad.sub_(parallel * self.W_dec)


def geometric_median(
    points: Float[Tensor, "n d"], *, max_iterations: int = 100, tolerance: float = 1e-5
) -> Float[Tensor, " d"]:
    """The point with the least sum of distances to `points`, by Weiszfeld's iteration from the mean.

    Ends when the point moves by less than `tolerance` of the mean distance, or after `max_iterations`.
    """
    median = points.mean(dim=0)
    for _ in range(max_iterations):
        distances = (points - median).norm(dim=1)
        spread = distances.mean()
        if spread == 0:
            break
        # A point that the iterate sits on would get an infinite weight.
        weights = 1 / distances.clamp_min(1e-6 * spread)
        moved = (weights[:, None] * points).sum(dim=0) / weights.sum()
        step = (moved - median).norm()
        median = moved
        if step < tolerance * spread:
            break
    return median
