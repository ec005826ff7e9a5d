"""The sparse autoencoder: z = S(W_enc (x - b) + b_enc), x_hat = W_dec z + b, with a sparsity S.

Emergence, section 3, has S = TopK(ReLU(.)) and no b_enc.

A transcoder has another vector y as its target: y_hat = W_dec z + b_target, with weights, bias and
scaling of the target's own width (arXiv 2406.11944; of diffusion transformers DifFRACT, arXiv
2606.15796).
"""

from __future__ import annotations

import math
from typing import NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from diffusae.errors import UserError, unknown
from diffusae.sae.across_processes import Shard
from diffusae.sae.dense_ops import dense_errors, only, pre_activations
from diffusae.sae.kernels import kernels_by_name
from diffusae.sae.search import BLOCK, Search
from diffusae.sae.settings import (
    DecoderNorm,
    InitialBias,
    InputScaling,
    KernelsName,
    SelectionPrecision,
)
from diffusae.sae.sparse_ops import Memory, Target, chosen_errors, row_products, sparse_decode
from diffusae.sae.sparsity import Codes, Penalised, Sparsity, TopK


class ScaledPass(NamedTuple):
    """One pass in scaled units as training needs it, differentiable in the weights.

    `errors` are x_hat - x, of the reconstructions from the first latents only, where the sparsity
    asks for such prefixes, and last of the whole; `squared_errors` are the sums over the batch of
    their squared norms, and `penalty` is the sparsity's own term of the loss.
    """

    centred: Float[Tensor, "batch d_in"]
    """x - b"""
    errors: Float[Tensor, "batch prefixes d_out"]
    squared_errors: Float[Tensor, " prefixes"]
    codes: Codes
    fired: Bool[Tensor, " d_sae"]
    """Whether a latent is active on any vector of the batch."""
    penalty: Float[Tensor, ""] | None = None

    @property
    def error(self) -> Float[Tensor, "batch d_out"]:
        """Of the whole reconstruction."""
        return self.errors[:, -1]


class Affine(NamedTuple):
    """Of an input, or of what is reconstructed: x in data units is (scaled + bias) * scale + shift,
    where `scaled` is centred.
    """

    bias: Float[Tensor, " d"]
    shift: Float[Tensor, " d"]
    scale: Float[Tensor, " d"]


class SparseAutoencoder(nn.Module):
    """A sparse autoencoder of vectors [d_in], with one bias b before the encoder and after the
    decoder.

    There are two systems of units. Inside, vectors are scaled, (x - input_shift) / input_scale,
    because raw activations of some models leave most latents dead; the paper does not state its
    input normalisation. Outside, everything is in the units of the data: `encode` gives codes z
    with x_hat = sum_c z_c f_c + constant, where f_c = `directions[c]` has unit norm. So a code says
    how far its latent moves the update, whatever the scaling.

    Weights: `W_enc` and `W_dec` are both [d_sae, d_in]; rows of `W_dec` begin with unit norm and by
    default keep it, and `W_enc` begins as their copy (both *open* in the paper; a public relative
    with the same numbers does so).

    With `d_target` it is a transcoder. `W_dec` is then [d_sae, d_target] and begins with directions
    of its own, and the decoder adds `b_target`, not b. Vectors for training are pairs [d_in +
    d_target]: the input, and beside it the target. What is said below of x_hat holds of y_hat.

    Args:
        d_in: entries of a vector.
        d_sae: latents.
        sparsity: what chooses the active latents, for example `TopK(20)`.
        encoder_bias: learn b_enc as well; without, it stays 0, as in the paper.
        selection_precision: of the product that latents are sought by in training: "bfloat16" (fast
            on GPUs and on CPUs with AMX) or "int8" (fast on CPUs with VNNI; on other devices it
            means bfloat16). It finds a few candidates more than are wanted, among which float32
            values choose. Validation and use (`encode`) are always in full precision.
        kernels: what computes with the latents in training: "dense" (matrix products, in bfloat16
            unless latents are sought in float32), "torch" (rows of the chosen latents, by its own
            kernels) or "triton" (the same by ours, on CUDA devices alone). Use (`decode`) is always
            with torch's.
        input_scaling: "none"; "mean_norm": divided by one number such that the mean norm is
            sqrt(d_in); "standardise": every entry to mean 0 and standard deviation 1. Fitted by
            `initialise`.
        initial_bias: where `initialise` puts b among the vectors.
        decoder_norm: "unit": training brings rows of W_dec back to unit norm; "free": it leaves
            them as they are.
        encoder_norm: of W_enc's rows at the beginning.
        d_target: entries of the target; None: the target is the input itself.
        shard: which of the d_sae latents are held here, as `self.d_sae`; None: all. The others are
            in other processes (`diffusae.sae.sharded`), and only training is possible.
        seed: of the random directions that the decoder begins with.

    Raises:
        UserError: d_in or d_sae below 1, k above d_sae, an encoder_norm of 0 or less, an unknown
            scaling or other choice, Triton kernels where there is no Triton.
    """

    input_shift: Tensor
    input_scale: Tensor
    target_shift: Tensor
    target_scale: Tensor

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        sparsity: Sparsity,
        *,
        encoder_bias: bool = False,
        selection_precision: SelectionPrecision = "float32",
        kernels: KernelsName = "torch",
        input_scaling: InputScaling = "mean_norm",
        initial_bias: InitialBias = "geometric_median",
        decoder_norm: DecoderNorm = "unit",
        encoder_norm: float = 1.0,
        d_target: int | None = None,
        shard: Shard | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if d_in < 1 or d_sae < 1:
            raise UserError(
                f"d_in={d_in} and d_sae={d_sae} must be at least 1; raise sae.expansion or"
                " sae.d_sae"
            )
        if d_target is not None and d_target < 1:
            raise UserError(f"d_target={d_target} must be at least 1; collect the target again")
        if not encoder_norm > 0:
            raise UserError(f"encoder_norm={encoder_norm} must be above 0; raise sae.encoder_norm")
        sparsity.check(d_sae)
        for what, chosen, known in (
            ("selection precision", selection_precision, SelectionPrecision),
            ("input scaling", input_scaling, InputScaling),
            ("initial bias", initial_bias, InitialBias),
            ("decoder norm", decoder_norm, DecoderNorm),
        ):
            if chosen not in get_args(known):
                raise unknown(what, chosen, get_args(known))
        self.shard = shard or Shard(0, d_sae, d_sae)
        self.d_in, self.d_sae, self.input_scaling = d_in, self.shard.count, input_scaling
        self.d_target, self.d_out = d_target, d_target or d_in
        self.encoder_bias = encoder_bias
        self.selection_precision: SelectionPrecision = selection_precision
        self.initial_bias, self.decoder_norm = initial_bias, decoder_norm
        self.kernels, self.dense = kernels_by_name(kernels), kernels == "dense"
        self.sparsity = sparsity.to(device=device, dtype=dtype)
        # Drawn on the CPU, so that a seed means the same directions on every device.
        generator = torch.Generator().manual_seed(seed)
        first, count, _ = self.shard

        def directions(width: int) -> Tensor:
            drawn = torch.randn(d_sae, width, generator=generator, dtype=dtype)
            return F.normalize(drawn[first : first + count], dim=1).to(device)

        own = directions(d_in)
        self.W_enc = nn.Parameter(encoder_norm * own)
        self.W_dec = nn.Parameter(own if d_target is None else directions(d_target))
        self.b = nn.Parameter(torch.zeros(d_in, device=device, dtype=dtype))
        self.b_enc = nn.Parameter(
            torch.zeros(count, device=device, dtype=dtype), requires_grad=encoder_bias
        )
        self._search = Search()
        self._given_up: dict[str, Tensor] = {}
        self.register_buffer("input_shift", torch.zeros(d_in, device=device, dtype=dtype))
        self.register_buffer("input_scale", torch.ones(d_in, device=device, dtype=dtype))
        if d_target is not None:
            self.b_target = nn.Parameter(torch.zeros(d_target, device=device, dtype=dtype))
            self.register_buffer("target_shift", torch.zeros(d_target, device=device, dtype=dtype))
            self.register_buffer("target_scale", torch.ones(d_target, device=device, dtype=dtype))

    @property
    def transcodes(self) -> bool:
        """Whether the target is another vector than the input."""
        return self.d_target is not None

    def require_one_stream(self) -> None:
        """Raise `UserError` for a transcoder, where latents are to be edited."""
        if self.transcodes:
            raise UserError(
                "a transcoder's latents write into another stream than they read, and cannot be"
                " edited in either; edit with an autoencoder of one stream: sae.target=null"
            )

    @property
    def out(self) -> Affine:
        """Bias, shift and scale of what is reconstructed."""
        if self.transcodes:
            return Affine(self.b_target, self.target_shift, self.target_scale)
        return Affine(self.b, self.input_shift, self.input_scale)

    def split(self, vectors: Float[Tensor, "... width"]) -> tuple[Tensor, Tensor]:
        """Inputs and targets of vectors for training: the same unless it is a transcoder."""
        if not self.transcodes:
            return vectors, vectors
        return vectors[..., : self.d_in], vectors[..., self.d_in :]

    @torch.no_grad()
    def initialise(self, vectors: Float[Tensor, "n width"]) -> None:
        """Fit the input scaling to `vectors` and put b where `initial_bias` says, by default at
        their geometric median; that of a transcoder's targets in the same way.

        Raises:
            UserError: no vectors, wrong width, or values that are not finite.
        """
        width = self.d_in + (self.d_target or 0)
        if vectors.ndim != 2 or len(vectors) == 0 or vectors.shape[1] != width:
            raise UserError(
                f"expected vectors of shape [n > 0, {width}], got {list(vectors.shape)}"
            )
        if not torch.isfinite(vectors).all():
            raise UserError(
                "the vectors to initialise from are not all finite; collect the activations again"
            )
        inputs, targets = self.split(vectors.to(self.b))
        self._fit(Affine(self.b, self.input_shift, self.input_scale), inputs)
        if self.transcodes:
            self._fit(self.out, targets)

    def _fit(self, affine: Affine, vectors: Float[Tensor, "n d"]) -> None:
        """Put scale, shift and bias where the settings say."""
        if self.input_scaling == "mean_norm":
            mean_norm = vectors.norm(dim=1).mean() / math.sqrt(vectors.shape[1])
            affine.scale.fill_(mean_norm if mean_norm > 0 else 1.0)
        elif self.input_scaling == "standardise":
            affine.shift.copy_(vectors.mean(dim=0))
            deviation = vectors.std(dim=0, correction=0)
            # A constant entry has nothing to scale; 1 keeps it finite.
            affine.scale.copy_(torch.where(deviation > 0, deviation, torch.ones_like(deviation)))
        if self.initial_bias != "zero":
            scaled = (vectors - affine.shift) / affine.scale
            affine.bias.copy_(
                scaled.mean(dim=0) if self.initial_bias == "mean" else geometric_median(scaled)
            )

    def scale(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_in"]:
        """Data units to scaled units."""
        return (x.to(self.b.dtype) - self.input_shift) / self.input_scale

    def unscale(self, x: Float[Tensor, "... d_out"]) -> Float[Tensor, "... d_out"]:
        """What is reconstructed from scaled units to data units."""
        return x * self.out.scale + self.out.shift

    @property
    def gains(self) -> Float[Tensor, " d_sae"]:
        """What one scaled unit of every latent is in data units: norms of W_dec's rows there."""
        return (self.W_dec * self.out.scale).norm(dim=1)

    @property
    def directions(self) -> Float[Tensor, "d_sae d_out"]:
        """The concept vectors f_c: decoder rows in data units, of unit norm."""
        return F.normalize(self.W_dec * self.out.scale, dim=1)

    def directions_of(self, latents: Int[Tensor, " m"]) -> Float[Tensor, "m d_out"]:
        """The concept vectors of some latents."""
        return F.normalize(self.W_dec[latents] * self.out.scale, dim=1)

    def scaled_pass(self, x: Float[Tensor, "batch width"]) -> ScaledPass:
        """Encode and decode in scaled units, differentiable in the weights, in the way that costs
        least for the sparsity.
        """
        return self.sparsity.scaled_pass(self, x)

    def give_up(self, **memory: Tensor | None) -> None:
        """Let the next pass that chooses write into the memory of tensors that are not used any
        more. This happens on a CPU alone, whose system clears new memory page by page.

        Args:
            memory: by what it may serve for: `W_enc` and `W_dec` for their gradients, `centred` and
                `errors` for those of the pass.
        """
        if self.W_dec.device.type == "cpu" and isinstance(self.sparsity, TopK) and not self.dense:
            self._given_up |= {
                name: old.detach() for name, old in memory.items() if old is not None
            }

    def _memory(self, name: str, *shape: int) -> Tensor | None:
        """What was given up under this name, once, if it has the shape."""
        memory = self._given_up.pop(name, None)
        return None if memory is None or memory.shape != shape else memory

    def chosen_pass(self, x: Float[Tensor, "batch width"], sparsity: TopK) -> ScaledPass:
        """`scaled_pass` of a sparsity that chooses: one dense product, and what the active latents
        cost.
        """
        with torch.no_grad():
            centred, wanted = self._centred(x)
            # Kept memory might be given up while a captured step still writes to it.
            search = self._search if x.device.type == "cpu" else Search()
            codes = search(
                centred,
                self.W_enc,
                self.b_enc if self.encoder_bias else None,
                sparsity.here(),
                precision=self.selection_precision,
                kernels=self.kernels,
            )
            codes = sparsity.winners(codes)
            if sparsity.prefixes:  # rows are cut where prefixes end, so their latents must rise
                indices, order = codes.indices.sort(dim=1)
                codes = Codes(codes.values.gather(1, order), indices)
            entries, values = sparsity.entries(codes, d_sae=self.d_sae, kernels=self.kernels)
            parts = entries.cut(sparsity.prefixes) if sparsity.prefixes else entries
            # Entries that are not active fall into the last place, which is cut off.
            active = codes.indices.masked_fill(~(codes.values > 0), self.d_sae)
            fired = torch.zeros(self.d_sae + 1, dtype=torch.bool, device=x.device)
            fired.index_fill_(0, active.flatten(), True)
        errors, squared = chosen_errors(
            centred,
            values,
            entries,
            parts,
            b=self.b,
            W_enc=self.W_enc,
            b_enc=self.b_enc,
            W_dec=self.W_dec,
            target=Target(wanted, self.b_target) if self.transcodes else None,
            total=sparsity.total,
            memory=Memory(
                self._memory("errors", len(x), 1, self.d_out),
                self._memory("W_enc", *self.W_enc.shape),
                self._memory("W_dec", *self.W_dec.shape),
            ),
        )
        return ScaledPass(centred, errors, squared, codes, fired[:-1])

    def dense_pass(self, x: Float[Tensor, "batch width"], sparsity: TopK | Penalised) -> ScaledPass:
        """`scaled_pass` by dense products: of a sparsity that a penalty brings about, where every
        latent takes part, or of one that chooses.
        """
        dtype = self.product_dtype
        chooses = isinstance(sparsity, TopK)
        with torch.no_grad():
            centred, wanted = self._centred(x)
        pre = pre_activations(
            centred,
            b=self.b,
            W_enc=self.W_enc,
            b_enc=self.b_enc if self.encoder_bias else None,
            dtype=dtype,
            rounded=chooses,
        )
        penalty = None
        if chooses:
            with torch.no_grad():
                z = sparsity.dense(pre)
            z = only(pre, z)
        else:
            z = sparsity.activate(pre)
            # With free norms, codes would escape a penalty by shrinking while decoder rows grow.
            weighted = z if self.decoder_norm == "unit" else z * self.W_dec.norm(dim=1)
            penalty = sparsity.penalty(pre, weighted, math.sqrt(self.d_out))
        errors, squared = dense_errors(
            wanted,
            z,
            b=self.out.bias,
            W_dec=self.W_dec,
            prefixes=sparsity.prefixes if chooses else (),
            dtype=dtype,
        )
        values = z.detach()
        latents = torch.arange(self.d_sae, device=z.device).expand_as(z)
        # Over no rows, of a process without a part of a short last batch, there is no maximum.
        fired = values.amax(dim=0) > 0 if len(values) else (values > 0).any(dim=0)
        return ScaledPass(centred, errors, squared, Codes(values, latents), fired, penalty)

    def _centred(self, x: Float[Tensor, "batch width"]) -> tuple[Tensor, Tensor]:
        """scale(x) - b of inputs [batch, d_in] and of targets [batch, d_out], in one pass."""
        inputs, targets = self.split(x.to(self.b.dtype))
        shift = -self.input_shift / self.input_scale - self.b
        memory = self._memory("centred", len(x), self.d_in)
        centred = torch.addcmul(shift, inputs, 1 / self.input_scale, out=memory)
        if not self.transcodes:
            return centred, centred
        bias, shift, scale = self.out
        return centred, torch.addcmul(-shift / scale - bias, targets, 1 / scale)

    @property
    def product_dtype(self) -> torch.dtype:
        """What dense products of training are made in, beside the search: bfloat16 where that is in
        few bits and a GPU or `kernels` asks for it, else the weights' own.
        """
        low = self.training and self.selection_precision != "float32"
        return torch.bfloat16 if low and (self.dense or self.W_enc.is_cuda) else self.W_enc.dtype

    def pre_activations(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        """W_enc (x - b) + b_enc of every latent, in scaled units: the numbers that the sparsity
        compares.

        `relu(pre_activations(x)) * gains` are dense activations in data units.
        """
        return F.linear(self.scale(x) - self.b, self.W_enc, self.b_enc)

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "... d_in"]) -> Codes:
        """Sparse codes in data units. Not differentiable: training uses `scaled_pass`."""
        values, indices = self.sparsity(self.pre_activations(x))
        return Codes(values * self.gains[indices], indices)

    @torch.no_grad()
    def common_gain(self) -> float | None:
        """The gain that all latents share; None if they differ."""
        gains = self.gains
        lowest, highest, mean = torch.stack([gains.min(), gains.max(), gains.mean()]).tolist()
        return None if highest - lowest > 1e-6 * highest else mean

    @torch.no_grad()
    def code_norms(
        self, x: Float[Tensor, "... d_in"], gain: float | None = None
    ) -> Float[Tensor, ...]:
        """The norm of every code, as of `encode(x).values`; faster where all gains are equal.

        Args:
            gain: what `common_gain` has said, so that the weights need not be looked at again.
        """
        gain = self.common_gain() if gain is None else gain
        if gain is None:
            return self.encode(x).values.norm(dim=-1)
        vectors = x.reshape(-1, x.shape[-1])
        norms = [
            self.sparsity.values(self.pre_activations(rows)).norm(dim=-1)
            for rows in vectors.split(BLOCK if x.device.type == "cpu" else max(1, len(vectors)))
        ]
        return torch.cat(norms).view(x.shape[:-1]) * gain

    @torch.no_grad()
    def encode_dense(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        """The same codes as a dense tensor, zero where a latent is not active."""
        values, indices = self.encode(x)
        return values.new_zeros(*values.shape[:-1], self.d_sae).scatter_(-1, indices, values)

    @torch.no_grad()
    def decode(self, codes: Codes) -> Float[Tensor, "... d_out"]:
        """x_hat in data units from codes in data units."""
        constant = self.unscale(self.out.bias)
        return sparse_decode(codes.values, codes.indices, self.directions) + constant

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        """x_hat in data units."""
        return self.decode(self.encode(x))

    @torch.no_grad()
    def project(self) -> None:
        """After a step, bring rows of W_dec back to unit norm, and learnt values of the sparsity
        into their range.
        """
        if self.decoder_norm == "unit":
            self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp_min_(1e-12))
        self.sparsity.project()

    @torch.no_grad()
    def project_decoder_gradient(self) -> None:
        """Remove the part of W_dec's gradient that changes norms, which `project` would undo."""
        if self.decoder_norm == "unit" and self.W_dec.grad is not None:
            parallel = row_products(self.W_dec.grad, self.W_dec).unsqueeze(1)
            self.W_dec.grad.addcmul_(parallel, self.W_dec, value=-1)


def geometric_median(
    points: Float[Tensor, "n d"], *, max_iterations: int = 100, tolerance: float = 1e-5
) -> Float[Tensor, " d"]:
    """The point with the least sum of distances to `points`, by Weiszfeld's iteration from the
    mean.

    Ends when the point moves by less than `tolerance` of the mean distance, or after
    `max_iterations`.
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
