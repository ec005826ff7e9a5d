import logging

import pytest

from diffusae.errors import UserError
from diffusae.prompts import caption_source
from diffusae.prompts.caption_source import FilePrompts

SHARES = {"train": 0.5, "dictionary": 0.25, "test": 0.25}
NUMBERED = [f"caption number {n}" for n in range(200)]


@pytest.fixture
def file(tmp_path):
    def write(lines, name="captions.txt"):
        path = tmp_path / name
        path.write_bytes(
            b"".join(line if isinstance(line, bytes) else line.encode() + b"\n" for line in lines)
        )
        return path

    return write


def pairs(source):
    return [(split, text) for split, text, _ in source.texts()]


def split_by_text(source):
    return {text: split for split, text, _ in source.texts()}


def test_captions_are_dealt_out_in_order_with_their_lines(file):
    path = file(["a red fish", "an owl, Öl on canvas", "a cat", "unread"])
    assert FilePrompts(path, {"test": 1, "train": 2}).texts() == [
        ("train", "a red fish", "captions.txt, line 1"),
        ("train", "an owl, Öl on canvas", "captions.txt, line 2"),
        ("test", "a cat", "captions.txt, line 3"),
    ]


def test_too_few_captions_are_told_with_both_numbers_and_why(file):
    path = file(["a cat", "A Cat", "a dog"])
    with pytest.raises(UserError, match=r"ask for 3 captions, .*\(left out: 1 duplicate\) has 2"):
        FilePrompts(path, {"train": 3}, dedupe=True).texts()


def test_bad_lines_are_named_by_number_and_refused_or_left_out(file, caplog):
    path = file(["fine", "", b"\xff\xfe\n", "fine too"])
    with pytest.raises(UserError, match=r"(?s)line 2: empty.*line 3: not UTF-8.*bad_lines=skip"):
        FilePrompts(path, {"train": 2}).texts()
    with caplog.at_level(logging.WARNING):
        read = pairs(FilePrompts(path, {"train": 2}, bad_lines="skip"))
    assert read == [("train", "fine"), ("train", "fine too")]
    assert "2 bad lines are left out" in caplog.text and "line 3: not UTF-8" in caplog.text


def test_many_bad_lines_are_counted_not_listed(file):
    with pytest.raises(UserError) as raised:
        FilePrompts(file(["fine", *[""] * 50]), {"train": 2}).texts()
    assert "line 21: empty" in str(raised.value)
    assert "line 22" not in str(raised.value) and "and 30 more" in str(raised.value)


def test_nothing_is_read_after_the_last_caption_that_is_taken(file):
    assert len(FilePrompts(file(["one", "two", b"\xff\n"]), {"train": 2}).texts()) == 2


def test_with_the_hash_split_a_caption_keeps_its_split_whatever_else_is_there(file):
    open_counts = dict.fromkeys(SHARES)
    alone = split_by_text(FilePrompts(file(NUMBERED), open_counts, split="hash", shares=SHARES))
    more = file([*(f"another {n}" for n in range(300)), *reversed(NUMBERED[:150])], "more.txt")
    among = split_by_text(FilePrompts(more, open_counts, split="hash", shares=SHARES))
    assert len(alone) == 200 and len(among) == 450
    assert all(among[text] == alone[text] for text in NUMBERED[:150])


def test_counts_cap_each_split_without_moving_a_caption(file):
    path = file(NUMBERED)
    whole = pairs(FilePrompts(path, dict.fromkeys(SHARES), split="hash", shares=SHARES))
    capped = pairs(FilePrompts(path, {"train": 7, "test": 5}, split="hash", shares=SHARES))
    firsts = {split: [pair for pair in whole if pair[0] == split] for split in SHARES}
    assert capped == firsts["train"][:7] + firsts["test"][:5]


def test_captions_come_split_by_split(file):
    splits = [
        split
        for split, _ in pairs(
            FilePrompts(file(NUMBERED), dict.fromkeys(SHARES), split="hash", shares=SHARES)
        )
    ]
    assert splits == sorted(splits, key=["train", "dictionary", "test"].index)


def test_a_split_that_hash_leaves_short_is_told_and_an_empty_one_refused(file, caplog):
    with caplog.at_level(logging.WARNING):
        texts = FilePrompts(file(NUMBERED), {"test": 1000}, split="hash", shares=SHARES).texts()
    assert f"split test gets {len(texts)} captions" in caplog.text
    with pytest.raises(UserError, match=r"no caption of .* falls into test"):
        FilePrompts(
            file(["a cat"], "one.txt"),
            {"test": 1},
            split="hash",
            shares={"train": 1 - 1e-9, "test": 1e-9},
        ).texts()


def test_files_of_a_pattern_are_read_in_the_order_of_their_names(file, tmp_path):
    for name in ("b", "a", "c"):
        file([f"caption of {name}"], f"{name}.txt")
    assert [text for _, text in pairs(FilePrompts(tmp_path / "*.txt", {"train": 3}))] == [
        "caption of a", "caption of b", "caption of c"]  # fmt: skip


def test_a_study_that_asks_again_reads_an_unchanged_file_once(file, monkeypatch):
    path, opened = file(["a cat", "a dog"]), []
    read = caption_source.read_rows
    monkeypatch.setattr(
        caption_source, "read_rows", lambda *a, **b: opened.append(a) or read(*a, **b)
    )
    first = FilePrompts(path, {"train": 1}).texts()
    assert FilePrompts(path, {"train": 1}).texts() == first
    assert len(opened) == 1
    file(["a longer caption"])
    assert pairs(FilePrompts(path, {"train": 1})) == [("train", "a longer caption")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "random"}, "unknown prompts.split: 'random'; known: hash, order"),
        ({"bad_lines": "mend"}, "unknown prompts.bad_lines: 'mend'"),
        ({"split": "hash"}, "prompts.shares add up to 0"),
        (
            {"split": "hash", "shares": {"test": 1}},
            "ask for train, but prompts.shares give no share",
        ),
        ({"counts": {"train": None}}, "train=None must be a whole number"),
        ({"format": "xml"}, "unknown format of captions"),
        ({"script": "english"}, "unknown prompts.script"),
        ({"path": "nowhere-*.txt"}, r"prompts.path=nowhere-\*.txt is neither a file nor a pattern"),
        ({"path": None}, "prompts.path=None is neither a file"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_read(file, settings, message):
    with pytest.raises(UserError, match=message):
        FilePrompts(**{"path": file(["a cat"]), "counts": {"train": 1}, **settings})
