"""Attacks on prompts, on cases worked by hand."""

import numpy as np
import pytest

from diffusae.errors import UserError
from diffusae.prompts.attacks import (
    KINDS,
    attacked,
    misspelt,
    names_word,
    replace_word,
    reworded,
    without_words,
)

CAPTION = "a red fish and a blue boat at night , neon"
SYNONYMS = {"fish": ["trout", "carp"]}


def test_a_word_is_named_whole_and_in_the_plural_only():
    assert names_word("two Fishs swim", "fish")
    assert names_word(CAPTION, "fish")
    assert not names_word("a fisherman", "fish")
    assert not names_word("a starfish", "fish")


def test_a_word_is_replaced_wherever_it_stands_and_nothing_else_is():
    assert (
        replace_word("a fish , a starfish , fish", "fish", "carp") == "a carp , a starfish , carp"
    )
    with pytest.raises(UserError, match="does not hold 'house'"):
        replace_word(CAPTION, "house", "hut")


def test_words_are_taken_out_and_the_text_closes_up():
    assert without_words(CAPTION, ["fish"]) == "a red and a blue boat at night , neon"
    assert without_words("fish", ["fish"]) == ""


def edit_distance(one: str, other: str) -> int:
    """Damerau's, by the textbook table."""
    table = np.zeros((len(one) + 1, len(other) + 1), int)
    table[:, 0], table[0] = range(len(one) + 1), range(len(other) + 1)
    for i, a in enumerate(one, 1):
        for j, b in enumerate(other, 1):
            table[i, j] = min(
                table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (a != b)
            )
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                table[i, j] = min(table[i, j], table[i - 2, j - 2] + 1)
    return int(table[-1, -1])


@pytest.mark.parametrize("word", ["fish", "neon", "watercolour", "a"])
def test_a_misspelling_is_one_edit_away_and_never_the_word_itself(word):
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert edit_distance(misspelt(word, rng), word) == 1


def test_the_same_seed_misspells_alike():
    captions = [CAPTION] * 4
    first, again, other = (
        attacked("misspelling", captions, "fish", synonyms={}, seed=s) for s in (1, 1, 2)
    )
    assert first == again != other


def test_synonyms_take_the_words_place_in_turn():
    prompts = attacked("synonym", [CAPTION, CAPTION, CAPTION], "fish", synonyms=SYNONYMS)
    assert [text.split()[2] for text in prompts] == ["trout", "carp", "trout"]
    assert all(text.endswith("and a blue boat at night , neon") for text in prompts)


def test_a_paraphrase_keeps_the_word_and_every_clause():
    (prompt,) = attacked(
        "paraphrase", [CAPTION], "fish", synonyms={}, paraphrases=["see {target} : {caption}"]
    )
    assert prompt.startswith("see fish : ")
    assert sorted(prompt.removeprefix("see fish : ").split(" , ")) == sorted(CAPTION.split(" , "))


def test_what_is_missing_for_an_attack_is_said():
    with pytest.raises(UserError, match=r"no synonym of 'boat'.*evaluation\.synonyms"):
        attacked("synonym", [CAPTION], "boat", synonyms=SYNONYMS)
    with pytest.raises(UserError, match="unknown attack 'typo'"):
        attacked("typo", [CAPTION], "fish", synonyms={})
    with pytest.raises(UserError, match=r"may hold only \{caption\} and \{target\}"):
        reworded(CAPTION, "fish", "{noun} please", np.random.default_rng(0))
    assert KINDS == ("synonym", "misspelling", "paraphrase")
