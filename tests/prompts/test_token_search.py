"""The token search, on objectives whose minimum is known."""

import pytest
import torch

from diffusae.errors import UserError
from diffusae.prompts.token_search import allowed_tokens, search_tokens

WORDS = ["a", "red", "fish", "", "boat", "sh", "fishs", "moon", "é", "tree"]
WORTH = {"a": 5.0, "red": 4.0, "boat": 1.0, "sh": 3.0, "moon": 0.0, "tree": 2.0}


def losses(texts):
    return torch.tensor(
        [sum(WORTH[word] * 10**-n for n, word in enumerate(text.split())) for text in texts]
    )


def test_the_targets_word_and_what_holds_it_are_never_allowed():
    allowed = allowed_tokens(WORDS, without=["fish"])
    assert [WORDS[i] for i in allowed] == ["a", "red", "boat", "sh", "moon", "tree"]


def test_with_every_token_as_candidate_a_round_a_place_finds_the_best_of_a_sum():
    search = search_tokens(
        WORDS, allowed_tokens(WORDS, without=["fish"]), losses, length=2, rounds=2, candidates=6
    )
    assert (search.text, search.loss) == ("moon moon", 0.0)
    assert search.losses[0] == search.start
    assert list(search.losses) == sorted(search.losses, reverse=True)


def test_no_more_than_the_budget_is_asked():
    asked = []

    def counted(texts):
        asked.extend(texts)
        return losses(texts)

    search = search_tokens(
        WORDS, allowed_tokens(WORDS, without=["fish"]), counted, length=2, rounds=3, candidates=2
    )
    assert len(asked) == search.queries <= 1 + 3 * 2
    assert all(len(text.split()) == 2 for text in asked)


def test_a_gradient_leads_to_the_best_token_among_many_in_one_round():
    words = [chr(97 + i // 26) + chr(97 + i % 26) for i in range(600)]
    favourite = words.index("ma")

    def favour(_text: str, _place: int) -> torch.Tensor:
        return -(torch.arange(600) - favourite).abs().float()

    def distance(texts):
        return torch.tensor([abs(words.index(text) - favourite) * 1.0 for text in texts])

    guided = search_tokens(
        words, range(600), distance, length=1, rounds=1, candidates=4, favour=favour
    )
    blind = search_tokens(words, range(600), distance, length=1, rounds=1, candidates=4)
    assert guided.loss == 0
    assert blind.loss > 0


def test_the_same_seed_finds_the_same():
    allowed = allowed_tokens(WORDS, without=["fish"])
    one, other = (
        search_tokens(WORDS, allowed, losses, length=2, rounds=2, candidates=2, seed=3)
        for _ in range(2)
    )
    assert one == other


def test_faults_are_told_together():
    with pytest.raises(UserError, match="2 faults") as raised:
        search_tokens(WORDS, [], losses, length=0, rounds=1, candidates=1)
    assert "raise evaluation.search.length" in str(raised.value)
