"""Which tokens of a caption stand for a label, where the caption names it in other words."""

import pytest

from diffusae.concepts.words import Vocabulary
from diffusae.metrics.composition import tokens_naming
from diffusae.study.streams import words_of

VOCABULARY = Vocabulary(["dog", "hot dog", "person", "fish"], {"dog": ["puppy"], "person": ["man"]})


def tokens_of(text: str) -> dict[str, list[int]]:
    """As a collection tells them: a token a word here, after the start token; none from the sixth
    word on.
    """
    words = [word.strip(",.") for word in text.replace("-", " ").replace("'", " ").split()]
    return {
        word: [n + 1 for n, other in enumerate(words) if other == word and n < 5]
        for word in words_of(text)
    }


@pytest.mark.parametrize(
    ("text", "label", "tokens"),
    [
        ("a red fish", "fish", [3]),
        ("Two Puppies, sleeping", "dog", [2]),
        ("a hot-dog on bread", "hot dog", [2, 3]),
        ("men and a man", "person", [1, 4]),
        ("the man's fish", "person", [2]),
        ("one two three four five fish", "fish", []),  # cut off
        ("a stone", "fish", []),
    ],
)
def test_the_tokens_of_a_label_are_those_of_the_words_that_name_it(text, label, tokens):
    assert tokens_naming(label, text, tokens_of(text), VOCABULARY) == tokens
