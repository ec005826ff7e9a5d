"""The gradient that leads a token search: which tokens move a prompt's encoding towards another.

The loss is the squared distance between the encodings of the attacked and of the original captions,
at the end token, where a causal text encoder has read everything. To first order in the embedding
at the searched place, a token's score is -grad . E[token] (GCG, arXiv 2307.15043). The encoder is
the undefended one: it only proposes tokens. The attack judges them by its own objective, under the
defence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffusae.backbone.offloading import refuse_offloaded
from diffusae.errors import refuse_text


def single_words(tokenizer: Any) -> list[str]:
    """The text of every token that is one whole lower-case word; "" for all other tokens."""
    words = [""] * len(tokenizer)
    for token, place in tokenizer.get_vocab().items():
        word = token.removesuffix("</w>")
        if token.endswith("</w>") and word.isalpha() and word.isascii() and word == word.lower():
            words[place] = word
    return words


class TokenGradient:
    """Scores of all tokens at a place among the searched ones.

    Args:
        tokenizer, encoder: the pipeline's first, a CLIP text encoder.
        captions: the original captions, with the target.
        replaced: (caption, text of the searched tokens) -> the attacked caption.
        before: caption -> the characters before the searched tokens' text.
    """

    def __init__(
        self,
        tokenizer: Any,
        encoder: Any,
        captions: Sequence[str],
        replaced: Callable[[str, str], str],
        before: Callable[[str], int],
    ) -> None:
        refuse_text("captions", captions)
        refuse_offloaded(encoder, "a search by gradients")
        self.tokenizer, self.encoder = tokenizer, encoder
        self.captions, self.replaced = list(captions), replaced
        self.places = [len(self._ids([caption[: before(caption)]])[0]) - 1 for caption in captions]
        with torch.no_grad():
            self.wanted = self._encode(self.captions)

    def __call__(self, text: str, place: int) -> Float[Tensor, " vocab"]:
        embedding = self.encoder.get_input_embeddings()
        kept: list[Tensor] = []

        def keep(_module: Any, _args: Any, output: Tensor) -> Tensor:
            kept.append(output.detach().requires_grad_())
            return kept[-1]

        handle = embedding.register_forward_hook(keep)
        try:
            with torch.enable_grad():
                attacked = self._encode([self.replaced(caption, text) for caption in self.captions])
                distance = (attacked - self.wanted).square().sum()
                (gradient,) = torch.autograd.grad(distance, kept[0])
        finally:
            handle.remove()
        rows = torch.arange(len(self.captions))
        at = gradient[rows, torch.tensor(self.places) + place].float().mean(dim=0)
        return -(embedding.weight.detach().float() @ at).cpu()

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer(list(texts), truncation=True).input_ids

    def _encode(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """The last hidden state at each text's end token."""
        ids = self._ids(texts)
        longest, end = max(map(len, ids)), self.tokenizer.eos_token_id
        padded: Int[Tensor, "n tokens"] = torch.tensor(
            [row + [end] * (longest - len(row)) for row in ids]
        )
        hidden = self.encoder(padded.to(self.encoder.device)).last_hidden_state
        return hidden[torch.arange(len(ids)), torch.tensor([len(row) - 1 for row in ids])].float()
