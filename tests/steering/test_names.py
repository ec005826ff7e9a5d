"""Names of directories say what is in them, and other settings have another name."""

from diffusae.steering.settings import file_name


def test_plain_words_are_joined_and_nothing_is_added():
    assert file_name("global", "a Red fish!", "mid-t0.50-cond", 0) == (
        "global-a-red-fish-mid-t0.50-cond-0"
    )


def test_a_long_prompt_keeps_its_seed_apart():
    long = "a red fish under a blue boat " * 6
    first, second = file_name("global", long, 0), file_name("global", long, 1)
    assert first != second
    assert max(len(first), len(second)) <= 120


def test_letters_that_no_name_can_hold_keep_prompts_apart():
    assert file_name("global", "猫", 0) != file_name("global", "狗", 0)
