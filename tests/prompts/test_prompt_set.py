import pytest

from diffusae.errors import UserError
from diffusae.prompts.prompt_set import check_counts, number_prompts


def test_ids_and_seeds_follow_the_place():
    prompts = number_prompts([("train", "a cat"), ("test", "a dog", "line 9")], first_seed=7)
    assert [(p.image_id, p.seed, p.split, p.where) for p in prompts] == [
        ("000000", 7, "train", ""),
        ("000001", 8, "test", "line 9"),
    ]


def test_every_bad_prompt_is_named_in_one_error():
    with pytest.raises(
        UserError, match=r"(?s)2 faults.*prompt 0.*unknown split 'exam'.*prompt 1 is empty"
    ):
        number_prompts([("exam", "a cat"), ("test", "  ")])


def test_no_prompts_at_all_is_an_error():
    with pytest.raises(UserError, match="no prompts"):
        number_prompts([])


def test_counts_may_be_open_only_where_that_has_a_meaning():
    assert check_counts({"test": None, "train": 3, "tune": 0}, open_ended=True) == {
        "train": 3,
        "test": None,
    }
    with pytest.raises(UserError, match=r"prompts.counts.test=None must be a whole number from 0"):
        check_counts({"test": None})
    with pytest.raises(
        UserError, match=r"(?s)exam: unknown split.*train=True must be a whole number"
    ):
        check_counts({"exam": 1, "train": True})
