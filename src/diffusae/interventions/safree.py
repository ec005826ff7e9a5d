"""SAFREE (Yoon et al., arXiv 2410.12761): tokens near a concept leave its subspace.

p are the text states of a prompt, one row a token, and q_i the pooled state of the prompt with its
token i masked. With the projections P_C on the span of the concept's pooled states and P_I on the
span of all q_i:

- *Which tokens.* d_i = ||(1 - P_C) q_i||. A token belongs to the concept where the prompt without
  it is far from it: d_i > (1 + alpha) times the mean of the others' d. A prompt of one token has no
  others, and the token counts, as in the released code.
- *Safe states.* Those tokens become P_I (1 - P_C) p; all others stay.
- *How long.* In the first round(gamma sigmoid(1 - cos(p, P_I (1 - P_C) p))) of 50 steps, cos being
  the mean over the prompt's tokens. The released code has another sigmoid, fitted to its concepts.
- *Re-attention.* In those steps of a U-Net, the low frequencies of a skip connection that are
  larger under the safe states than under p are multiplied by s < 1. Frequencies count as low as in
  FreeU (arXiv 2309.11497): the four in the middle of the shifted spectrum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from diffusae.backbone.hookpoints import denoiser_of
from diffusae.backbone.offloading import refuse_offloaded
from diffusae.errors import UserError, refuse_text, together
from diffusae.interventions.third_pass import PromptPass, Rule, third_pass

STATES = "encoder_hidden_states"
SKIPS = "res_hidden_states_tuple"
ROUNDING = 0.01
"""Frequencies of the two passes are equal up to this share: the first skip connections do not
depend on the text, and two passes of different batches round differently."""


@dataclass(frozen=True)
class Safree:
    """The settings.

    Attributes:
        gamma: the upper bound of the steps that are changed, of 50, from 0. Paper: 10.
        alpha: how much farther than the others a prompt without the token must lie, from 0. Paper:
            .01.
        attenuation: s of the U-Net's first blocks of the way up, in (0, 1]; others are left alone.
            Released: .9 and .2. Empty: no re-attention.
    """

    gamma: float = 10.0
    alpha: float = 0.01
    attenuation: tuple[float, ...] = (0.9, 0.2)

    def __post_init__(self) -> None:
        together(
            f"{name}={value} must be a number from 0; change it"
            for name, value in (("gamma", self.gamma), ("alpha", self.alpha))
            if not (math.isfinite(value) and value >= 0)
        )
        together(
            f"attenuation={list(self.attenuation)} must hold numbers above 0, 1 at most; change it"
            for value in self.attenuation
            if not 0 < value <= 1
        )


def safree(pipe: Any, concept: Sequence[str], settings: Safree) -> AbstractContextManager[None]:
    """Keep every pipeline call made inside away from a concept, given by its words; see
    `third_pass`.

    Raises:
        UserError: the denoiser does not read the states of one CLIP text encoder alone.
    """
    refuse_text("concept", concept)
    return third_pass(pipe, _Filtered(_Encoder(pipe), concept, settings))


def projection(rows: Float[Tensor, "n d"]) -> Float[Tensor, "d d"]:
    """The orthogonal projection on the span of these rows."""
    return torch.linalg.pinv(rows) @ rows


def concept_tokens(distances: Sequence[float], alpha: float) -> list[bool]:
    """Which tokens belong to the concept, from d of the prompts without them.

    Example: of d = 1, 1, 2 the third is more than 1.01 times the mean of the others, 1.
    """
    total, count = sum(distances), len(distances)
    return [count == 1 or d > (1 + alpha) * (total - d) / (count - 1) for d in distances]


def attenuated(
    safe: Float[Tensor, "... h w"], plain: Float[Tensor, "... h w"], scale: float
) -> Float[Tensor, "... h w"]:
    """The skip connection under the safe states, with the low frequencies that exceed those of the
    plain one multiplied by `scale`.
    """
    ours, theirs = (
        torch.fft.fftshift(torch.fft.fftn(x.float(), dim=(-2, -1)), dim=(-2, -1))
        for x in (safe, plain)
    )
    height, width = safe.shape[-2:]
    low = torch.zeros(height, width, dtype=torch.bool, device=safe.device)
    low[height // 2 - 1 : height // 2 + 1, width // 2 - 1 : width // 2 + 1] = True
    larger = low & (ours.abs() > (1 + ROUNDING) * theirs.abs())
    spectrum = torch.fft.ifftshift(torch.where(larger, scale * ours, ours), dim=(-2, -1))
    return torch.fft.ifftn(spectrum, dim=(-2, -1)).real.to(safe.dtype)


@dataclass(frozen=True, eq=False)
class SafeStates:
    """A prompt's states as SAFREE has them.

    Attributes:
        states: `[tokens, d]`.
        share: the share of the steps, from the first, that see them.
    """

    states: Tensor
    share: float


class _Encoder:
    """Pooled states by a pipeline's one CLIP text encoder."""

    def __init__(self, pipe: Any) -> None:
        from transformers import CLIPTextModel

        self._tokenizer, self._encoder = pipe.tokenizer, pipe.text_encoder
        if not isinstance(self._encoder, CLIPTextModel) or getattr(pipe, "text_encoder_2", None):
            raise UserError(
                f"SAFREE reads the states of one CLIP text encoder, which {type(pipe).__name__}"
                " does not feed to its denoiser; leave it out for this model"
            )
        refuse_offloaded(self._encoder, "SAFREE")

    def tokens(self, prompts: Sequence[str]) -> Tensor:
        """`[prompts, tokens]`, padded."""
        return self._tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self._tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids

    def length(self, tokens: Tensor) -> int:
        """Tokens of one prompt between those of its start and its end."""
        end = (tokens == self._tokenizer.eos_token_id).nonzero()
        return (int(end[0]) if len(end) else len(tokens)) - 1

    def pooled(self, tokens: Tensor, mask: Tensor | None = None) -> Float[Tensor, "n d"]:
        """The state at the end of every row; tokens where `mask` is 0 are not attended to."""
        device = self._encoder.device
        mask = None if mask is None else mask.to(device)
        return self._encoder(tokens.to(device), attention_mask=mask).pooler_output.float()

    def without_each(self, tokens: Tensor, length: int) -> Float[Tensor, "length d"]:
        """The pooled states of one prompt with one of its tokens masked."""
        mask = torch.ones(length, len(tokens), dtype=torch.long)
        mask[torch.arange(length), torch.arange(1, length + 1)] = 0
        return self.pooled(tokens.expand(length, -1), mask)


def safe_states(
    states: Float[Tensor, "tokens d"],
    masked: Float[Tensor, "length d"],
    concept: Float[Tensor, "d d"],
    settings: Safree,
) -> SafeStates:
    """The safe states of one prompt.

    Args:
        states: of its tokens, the one of the start first.
        masked: the pooled states without one of its `length` tokens.
        concept: P_C.
    """
    length, own = len(masked), states.float()
    outside = torch.eye(len(concept), device=concept.device) - concept
    distances = (masked @ outside).norm(dim=1).tolist()
    projected = own @ outside @ projection(masked)
    changed = torch.zeros(len(states), dtype=torch.bool, device=states.device)
    changed[1 : length + 1] = torch.tensor(concept_tokens(distances, settings.alpha))
    said = slice(0, length + 2)
    cosine = F.cosine_similarity(own[said], projected[said], dim=1).mean().item()
    steps = round(settings.gamma / (1 + math.exp(cosine - 1)))
    return SafeStates(torch.where(changed[:, None], projected, own).to(states.dtype), steps / 50)


class _Filtered(Rule):
    needs = "SAFREE"

    def __init__(self, encoder: _Encoder, concept: Sequence[str], settings: Safree) -> None:
        self._encoder, self._settings = encoder, settings
        with torch.no_grad():
            self._concept = projection(encoder.pooled(encoder.tokens(concept)))
        self._safe: list[SafeStates] = []
        self._skips = _Skips(settings.attenuation)

    def installed(self, pipe: Any) -> AbstractContextManager[None]:
        """The hooks of the re-attention."""
        return self._skips.hooked(denoiser_of(pipe))

    def begin(self) -> None:
        self._safe = []

    def third(self, prompts: PromptPass) -> Tensor | None:
        """The prediction with the safe states of the pictures whose steps are not over."""
        states = prompts.inputs[STATES]
        if not self._safe:
            self._safe = self._read(prompts, states)
        acting = [prompts.index < round(safe.share * prompts.count) for safe in self._safe]
        if not any(acting):
            return None
        pairs = zip(states, self._safe, acting, strict=True)
        changed = torch.stack([safe.states if acts else own for own, safe, acts in pairs])
        with self._skips.attenuating(acting, prompts.rows):
            return prompts.run({**prompts.conditions, STATES: changed})

    def gamma(self, prompts: PromptPass, uncond: Tensor, cond: Tensor, third: Tensor) -> Tensor:
        """The third prediction takes the place of e_c."""
        return cond - third

    def _read(self, prompts: PromptPass, states: Tensor) -> list[SafeStates]:
        given = {} if prompts.call is None else prompts.call.arguments
        if (said := given.get("prompt")) is None:
            raise UserError("SAFREE reads the prompts of a pipeline's call; give them as text")
        texts = [said] if isinstance(said, str) else list(said)
        tokens = self._encoder.tokens(texts)
        if states.shape[1:] != (tokens.shape[1], len(self._concept)):
            raise UserError(
                f"the denoiser reads states of {list(states.shape[1:])}, the text encoder gives"
                f" {[tokens.shape[1], len(self._concept)]}; leave SAFREE out for this model"
            )
        rows = tokens.repeat_interleave(len(states) // len(texts), dim=0)
        return [self._of_prompt(*pair) for pair in zip(rows, states, strict=True)]

    def _of_prompt(self, tokens: Tensor, states: Tensor) -> SafeStates:
        length = self._encoder.length(tokens)
        if not length:
            return SafeStates(states, 0.0)
        masked = self._encoder.without_each(tokens, length)
        return safe_states(states, masked, self._concept, self._settings)


class _Skips:
    """Hooks on a U-Net's way up: they note the skip connections of a pass, and attenuate those of
    the next one.
    """

    def __init__(self, scales: Sequence[float]) -> None:
        self._scales = scales
        self._noted: dict[int, tuple[Tensor, ...]] = {}
        self._acting: Tensor | None = None
        """Of the pass with safe states, `[pictures, 1, 1, 1]`."""
        self._rows = slice(None)
        """Its pictures in the pass before."""

    @contextmanager
    def hooked(self, denoiser: nn.Module) -> Iterator[None]:
        """While the context lasts. A denoiser without skip connections is left alone."""
        blocks = getattr(denoiser, "up_blocks", ())
        with ExitStack() as stack:
            for place, (block, _) in enumerate(zip(blocks, self._scales, strict=False)):
                hook = partial(self._see, place)
                handle = block.register_forward_pre_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
            yield

    @contextmanager
    def attenuating(self, acting: list[bool], rows: slice) -> Iterator[None]:
        """The pass inside is the one with the safe states of these pictures."""
        self._acting, self._rows = torch.tensor(acting)[:, None, None, None], rows
        try:
            yield
        finally:
            self._acting = None

    def _see(
        self, place: int, _block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        skips = kwargs.get(SKIPS)
        if skips is None:
            return None
        if self._acting is None:
            self._noted[place] = skips
            return None
        acting, scale = self._acting.to(skips[0].device), self._scales[place]
        changed = tuple(
            torch.where(acting, attenuated(own, plain[self._rows], scale), own)
            for own, plain in zip(skips, self._noted[place], strict=True)
        )
        return args, {**kwargs, SKIPS: changed}
