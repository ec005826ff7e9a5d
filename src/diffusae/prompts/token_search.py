"""Token-optimised prompts: a search for tokens that make a model do what a word does, without the
word.

Greedy coordinate search with gradients as a guide (GCG, arXiv 2307.15043, as UnlearnDiffAtk, arXiv
2310.11868, and P4D use the like for diffusion models): at every round one place is chosen,
candidates for it are proposed - those whose embedding the objective's gradient favours, or random
ones where there is no gradient -, and the best of them stays if it improves. What is minimised is
the caller's: this module knows strings and numbers only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from diffusae.errors import together

Losses = Callable[[Sequence[str]], Float[Tensor, " n"]]
"""Texts, each the joined tokens in the target's place, to what is minimised."""
Favour = Callable[[str, int], Float[Tensor, " vocab"] | None]
"""(text, place among its tokens) to a score of every token there, higher is better; None: no
gradient is known."""


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        text: the tokens as text.
        loss: of it; `start` is the first text's.
        queries: texts whose loss was asked for.
        losses: the best after each round, the first text's before them.
    """

    text: str
    loss: float
    start: float
    queries: int
    losses: tuple[float, ...]


def allowed_tokens(words: Sequence[str], *, without: Sequence[str]) -> list[int]:
    """Places of the whole words that a search may use: of letters alone, not a forbidden word nor
    one that holds it.

    Args:
        words: the text of every token, as the tokenizer would join it with blanks around; "" for
            tokens that are no word.
        without: forbidden words: the target's, and its plural.
    """
    forbidden = [word.lower() for word in without]
    return [
        place
        for place, word in enumerate(words)
        if word.isalpha() and word.isascii() and not any(each in word.lower() for each in forbidden)
    ]


def search_tokens(
    words: Sequence[str],
    allowed: Sequence[int],
    losses: Losses,
    *,
    length: int,
    rounds: int,
    candidates: int,
    favour: Favour | None = None,
    seed: int = 0,
) -> Found:
    """`length` tokens of `allowed` with a low loss, found in `rounds` x `candidates` queries at
    most.

    Args:
        words: the text of every token; a token's place is its index.
        losses, favour: see there. Half of the candidates come from `favour`, the others are random:
            a gradient at one token says little about tokens far from it.

    Raises:
        UserError: nothing is allowed, or a number below 1 (all faults together).
    """
    faults = [
        f"{name}={value} must be at least 1; raise evaluation.search.{name}"
        for name, value in (("length", length), ("rounds", rounds), ("candidates", candidates))
        if value < 1
    ]
    if not allowed:
        faults.append("no token is allowed in a token search; forbid fewer words")
    together(faults)
    generator = torch.Generator().manual_seed(seed)

    def drawn(count: int) -> list[int]:
        return [
            allowed[i] for i in torch.randint(len(allowed), (count,), generator=generator).tolist()
        ]

    def text_of(tokens: Sequence[int]) -> str:
        return " ".join(words[token] for token in tokens)

    best = drawn(length)
    loss = start = float(losses([text_of(best)])[0])
    queries, history = 1, [start]
    for round_ in range(rounds):
        place = round_ % length
        proposed = dict.fromkeys(_favoured(favour, text_of(best), place, allowed, candidates // 2))
        for token in torch.randperm(len(allowed), generator=generator).tolist():
            if len(proposed) >= min(candidates, len(allowed)):
                break
            proposed.setdefault(allowed[token])
        tried = [
            [*best[:place], token, *best[place + 1 :]] for token in proposed if token != best[place]
        ]
        if tried:
            found = losses([text_of(tokens) for tokens in tried])
            queries += len(tried)
            if float(found.min()) < loss:
                loss, best = float(found.min()), tried[int(found.argmin())]
        history.append(loss)
    return Found(text_of(best), loss, start, queries, tuple(history))


def _favoured(
    favour: Favour | None, text: str, place: int, allowed: Sequence[int], count: int
) -> list[int]:
    scores = None if favour is None or not count else favour(text, place)
    if scores is None:
        return []
    among = torch.as_tensor(list(allowed))
    return among[scores[among].topk(min(count, len(allowed))).indices].tolist()
