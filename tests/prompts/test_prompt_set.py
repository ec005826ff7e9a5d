import pytest

from diffusae.errors import UserError
from diffusae.prompts.prompt_set import in_splits, number_prompts
from diffusae.prompts.text_file import TextFilePrompts


def test_ids_and_seeds_follow_the_place():
    prompts = number_prompts([("train", "a cat"), ("test", "a dog")], first_seed=7)
    assert [(p.image_id, p.seed, p.split) for p in prompts] == [("000000", 7, "train"), ("000001", 8, "test")]


def test_every_bad_prompt_is_named_in_one_error():
    with pytest.raises(UserError, match=r"(?s)2 faults.*prompt 0.*unknown split 'exam'.*prompt 1 is empty"):
        number_prompts([("exam", "a cat"), ("test", "  ")])


def test_no_prompts_at_all_is_an_error():
    with pytest.raises(UserError, match="no prompts"):
        number_prompts([])


def test_captions_are_dealt_out_in_order():
    assert in_splits({"train": 2, "test": 1}, ["a", "b", "c", "d"], source="x") == [
        ("train", "a"),
        ("train", "b"),
        ("test", "c"),
    ]


def test_too_few_captions_are_told_with_both_numbers():
    with pytest.raises(UserError, match="ask for 3 captions, x has 2"):
        in_splits({"train": 3}, ["a", "b"], source="x")


def test_a_text_file_gives_one_caption_a_line(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("a red fish\nan owl, Öl on canvas\n", encoding="utf-8")
    assert TextFilePrompts(path, {"train": 1, "test": 1}).texts() == [
        ("train", "a red fish"),
        ("test", "an owl, Öl on canvas"),
    ]


def test_empty_and_undecodable_lines_are_named_by_number(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_bytes(b"fine\n\n\xff\xfe\n")
    with pytest.raises(UserError, match=r"(?s)line 2: empty.*line 3: not UTF-8"):
        TextFilePrompts(path, {"train": 1}).texts()


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match=r"prompts.path=nowhere.txt is not a file"):
        TextFilePrompts("nowhere.txt", {"train": 1})
