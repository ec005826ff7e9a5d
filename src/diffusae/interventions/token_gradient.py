"""Which tokens would move a prompt's encoding towards another's: the gradient that leads a token
search.

The squared distance between the encoding (at the end token, where a causal text encoder has read
everything) of the attacked captions and of the captions as they are, to first order in the
embedding at the searched place: a token's score is -grad . E[token] (GCG, arXiv 2307.15043). It is
the undefended encoder's: it proposes; what it proposes is judged by the attack's own objective,
under the defence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffusae.errors import refuse_text


def single_words(tokenizer: Any) -> list[str]:
    """The text of every token that is a whole word by itself and comes back as that token; "" for
    the others.
    """
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
        captions: as they are, with the target.
        replaced: a caption and the searched tokens' text to the attacked caption.
        before: the searched tokens' text begins after as many characters of a caption.
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
        longest = max(map(len, ids))
        end = self.tokenizer.eos_token_id
        padded: Int[Tensor, "n tokens"] = torch.tensor(
            [each + [end] * (longest - len(each)) for each in ids]
        )
        hidden = self.encoder(padded.to(self.encoder.device)).last_hidden_state
        return hidden[torch.arange(len(ids)), torch.tensor([len(each) - 1 for each in ids])].float()
