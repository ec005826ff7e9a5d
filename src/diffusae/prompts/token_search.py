"""Token-optimised prompts: a search for tokens with the effect of a word, without the word.

Greedy coordinate search guided by gradients (GCG, arXiv 2307.15043; UnlearnDiffAtk, arXiv
2310.11868, and P4D do the same for diffusion models). A round takes one place, proposes candidates
for it (those that the objective's gradient favours, and random ones), and keeps the best if it
improves. The caller gives the objective: this module knows only strings and numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from diffusae.errors import together

Losses = Callable[[Sequence[str]], Float[Tensor, " n"]]
"""Texts (joined tokens in the target's place) -> losses, which are minimised."""
Favour = Callable[[str, int], Float[Tensor, " vocab"] | None]
"""(text, place among its tokens) -> a score of every token there, higher is better. None: no
gradient."""


@dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    Attributes:
        text: the tokens as text.
        loss: its loss. start: the first text's loss.
        queries: number of texts whose loss was computed.
        losses: the first text's loss, and the best loss after every round.
    """

    text: str
    loss: float
    start: float
    queries: int
    losses: tuple[float, ...]


def allowed_tokens(words: Sequence[str], *, without: Sequence[str]) -> list[int]:
    """Indices of the tokens that a search may use: words of letters that contain no forbidden word.

    Args:
        words: the text of every token as a whole word; "" for tokens that are no whole word.
        without: forbidden words: the target's, and its plural.
    """
    forbidden = [word.lower() for word in without]
    return [
        place
        for place, word in enumerate(words)
        if word.isalpha() and word.isascii() and not any(bad in word.lower() for bad in forbidden)
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
) -> SearchResult:
    """`length` tokens of `allowed` with a low loss, after at most `rounds` x `candidates` queries.

    Args:
        words: the text of every token, by index.
        losses, favour: see `Losses` and `Favour`. Half of the candidates come from `favour`. Others
            are random, since a gradient at one token says little about distant tokens.

    Raises:
        UserError: no token is allowed, or a number is below 1 (all faults in one error).
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
        places = torch.randint(len(allowed), (count,), generator=generator).tolist()
        return [allowed[place] for place in places]

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
            values = losses([text_of(tokens) for tokens in tried])
            queries += len(tried)
            if float(values.min()) < loss:
                loss, best = float(values.min()), tried[int(values.argmin())]
        history.append(loss)
    return SearchResult(text_of(best), loss, start, queries, tuple(history))


def _favoured(
    favour: Favour | None, text: str, place: int, allowed: Sequence[int], count: int
) -> list[int]:
    scores = None if favour is None or not count else favour(text, place)
    if scores is None:
        return []
    among = torch.as_tensor(list(allowed))
    return among[scores[among].topk(min(count, len(allowed))).indices].tolist()
