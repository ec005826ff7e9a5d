"""State dicts of the library overcomplete (known at 0.3.0): `torch.save(sae.state_dict(), ...)` of
`TopKSAE`, `BatchTopKSAE`, `JumpSAE` or `SAE` with a linear encoder.

    D = exp(multiplier) * the rows of dictionary._weights, brought to norm 1 (the default "l2")
    z = S(encoder.weight x + bias), x_hat = z D

There is no bias before the encoder or after the decoder. The state dict says no sparsity but that
of `JumpSAE`, whose thresholds are exp(thresholds): k, or BatchTopK's running threshold, are stated.
`stated.threshold=0` is the plain `SAE` with ReLU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffusae.errors import UserError
from diffusae.sae.belongs import Belongs
from diffusae.sae.checkpoint import Checkpoint, Stated
from diffusae.sae.folded import Folded
from diffusae.sae.foreign_files import read_weights
from diffusae.sae.sparsity import JumpReLU, Sparsity, TopK

WEIGHTS, MULTIPLIER, THRESHOLDS = "dictionary._weights", "dictionary.multiplier", "thresholds"
ENCODERS = ("encoder.final_block.0", "encoder")
"""Where a linear encoder has its weight and bias: the default one, and that of `untied()`. With
`tied()` there is no weight: it is the dictionary."""
_ROUNDING = 0.05


def read(checkpoint: Checkpoint, stated: Stated) -> Folded:
    """The autoencoder in use (`.eval()`).

    Raises:
        UserError: other tensors (of another encoder or dictionary), a dictionary that was not
            normalised by "l2", or a sparsity that nobody states.
    """
    names = checkpoint.header.shapes.keys()
    encoder = next((name for name in ENCODERS if f"{name}.weight" in names), ENCODERS[1])
    axes = {WEIGHTS: 2, MULTIPLIER: 0}
    optional = {f"{encoder}.weight": 2, f"{encoder}.bias": 1, THRESHOLDS: 1}
    axes |= {name: count for name, count in optional.items() if name in names}
    tensors = read_weights(checkpoint.weights, axes, dict.fromkeys(("d_sae", "d_in")), of=WEIGHTS)
    norms = tensors[WEIGHTS].norm(dim=1, keepdim=True)
    if ((norms - 1).abs() > _ROUNDING).any():
        raise UserError(
            f"{checkpoint.path}: rows of {WEIGHTS} must have norm 1 to rounding, are"
            f" {norms.min():.3g} to {norms.max():.3g}; only dictionaries with the normalization"
            ' "l2" can be imported; choose another SAE'
        )
    W_dec = tensors[WEIGHTS] / (norms + 1e-8) * tensors[MULTIPLIER].exp()
    d_sae, d_in = W_dec.shape
    return Folded(
        W_enc=tensors.get(f"{encoder}.weight", W_dec),
        b_enc=tensors.get(f"{encoder}.bias", torch.zeros(d_sae, dtype=W_dec.dtype)),
        W_dec=W_dec,
        b_dec=torch.zeros(d_in, dtype=W_dec.dtype),
        sparsity=_sparsity(checkpoint, stated, tensors.get(THRESHOLDS), d_sae),
    )


def _sparsity(
    checkpoint: Checkpoint, stated: Stated, thresholds: Tensor | None, d_sae: int
) -> Sparsity:
    if thresholds is not None:
        return JumpReLU.with_thresholds(thresholds.exp())
    if stated.k is not None:
        return TopK(stated.k)
    if stated.threshold is not None:
        return JumpReLU.with_thresholds(torch.full((d_sae,), stated.threshold))
    raise UserError(
        f"{checkpoint.path}: a state dict of overcomplete does not say its sparsity; give"
        " stated.k=K (TopKSAE), stated.threshold=X (the running_threshold of a BatchTopKSAE) or"
        " stated.threshold=0 (SAE)"
    )


def belongs(checkpoint: Checkpoint) -> Belongs:
    """A library's files say nothing of where they belong."""
    return Belongs()
