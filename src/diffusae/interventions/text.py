"""Steering a text encoder's layer towards a concept, or away from it (arXiv 2501.19066, section 3).

Concept Steerers: x + W_dec(lambda ENC(x_C)) at every token position. x is the layer's output for
the prompt, x_C its output for a concept prompt at the same position. ENC is the encoder *without*
TopK, and the decoder's bias is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from diffusae.backbone.branches import CONDITIONINGS
from diffusae.errors import refuse_text, together
from diffusae.sae.autoencoder import SparseAutoencoder


@dataclass(frozen=True)
class TextEdit:
    """Steering by one concept at one layer of a text encoder.

    Attributes:
        layer: its name, such as `text_9`: see `backbone.text_layers`.
        sae: of that layer's outputs.
        concept_prompts: names of the concept, one string or several; the steering vectors of
            several are averaged (ours: the paper has one).
        strength: lambda; above 0 steers towards the concept, below 0 away from it. Its effect grows
            with the SAE's width, as `steering_vectors` does, so that strengths of SAEs of different
            expansion cannot be compared.
        conditionings: the encodings that are edited. On `uncond` the sign is reversed, as in the
            released code: guidance pushes away from the unconditional prediction.

    Raises:
        UserError: no concept prompt or a blank one, a strength that is not finite, no conditioning
            or an unknown one.
    """

    layer: str
    sae: SparseAutoencoder
    concept_prompts: str | Sequence[str]
    strength: float
    conditionings: tuple[str, ...] = CONDITIONINGS

    def __post_init__(self) -> None:
        refuse_text("conditionings", self.conditionings)
        faults = []
        if not self.prompts:
            faults.append("concept_prompts is empty; give at least one, such as 'neon style'")
        faults += [
            f"concept prompt {prompt!r} is blank; say what the concept is called"
            for prompt in self.prompts
            if not prompt.strip()
        ]
        if not math.isfinite(self.strength):
            faults.append(f"strength={self.strength} must be finite; steering takes about -1 to 1")
        if not self.conditionings:
            faults.append("conditionings is empty; edit cond, uncond or both")
        faults += [
            f"unknown conditioning {name!r}; known: {', '.join(CONDITIONINGS)}"
            for name in self.conditionings
            if name not in CONDITIONINGS
        ]
        together(faults)

    @property
    def prompts(self) -> tuple[str, ...]:
        """The concept prompts as a tuple."""
        prompts = self.concept_prompts
        return (prompts,) if isinstance(prompts, str) else tuple(prompts)

    def signed_strength(self, conditioning: str) -> float:
        """lambda on this encoding; 0 where it is not edited."""
        if conditioning not in self.conditionings:
            return 0.0
        return self.strength if conditioning == "cond" else -self.strength


@torch.no_grad()
def steering_vectors(
    sae: SparseAutoencoder, x_concept: Float[Tensor, "prompts tokens d_in"]
) -> Float[Tensor, "tokens d_in"]:
    """W_dec ENC(x_C) of every token position, data units, as the mean over the prompts.

    A strength of 1 adds this. ENC is ReLU(W_enc (x_C - b) + b_enc): every latent above 0, not only
    the k largest. The ReLU stays, as in the released code; thresholds (BatchTopK, JumpReLU) are
    dropped as TopK is. Where the SAE scales its inputs, codes are of scaled inputs, and the
    decoder's rows return to data units; neither b nor the shift is added.

    About half of all latents are above 0, so that the vector is longer than x_C, by a factor that
    grows with the expansion: an untrained SAE with W_enc = W_dec has about expansion / 2.
    """
    sae.require_one_stream()
    device = sae.W_enc.device
    codes = sae.pre_activations(x_concept.to(device)).relu() * sae.gains
    return (codes @ sae.directions).mean(dim=0)
