from __future__ import annotations

from diffusae.prompts.exchanges import caption_pairs, named
from diffusae.prompts.prompt_set import Prompt

NOUNS = {"cat": "cat", "dog": "dog", "owl": "an owl"}


def pairs(*captions: str, words: dict[str, str] = NOUNS) -> list[tuple[str, str, str]]:
    prompts = [Prompt(str(n), text, n, "test") for n, text in enumerate(captions)]
    return [(pair.old, pair.new, pair.caption) for pair in caption_pairs(prompts, words)]


def test_the_one_named_value_is_exchanged_and_new_values_take_turns() -> None:
    assert pairs("a red cat", "nothing", "the Cat at night", "an owl") == [
        ("cat", "dog", "a red dog"),
        ("cat", "owl", "the an owl at night"),
        ("owl", "cat", "cat"),
    ]


def test_captions_that_name_two_values_or_one_twice_make_no_pair() -> None:
    assert pairs("a cat and a dog", "a cat beside a cat", "cats", "category") == []


def test_of_two_words_at_one_place_the_longer_counts() -> None:
    words = {"painting": "a painting", "oil": "a painting in oil"}
    assert pairs("a painting in oil of a cat", words=words) == [
        ("oil", "painting", "a painting of a cat")
    ]


def test_words_are_found_at_their_places_whatever_their_case() -> None:
    assert named("A Cat, a DOG (cat)", ["cat", "dog"]) == [(2, "cat"), (9, "dog"), (14, "cat")]
