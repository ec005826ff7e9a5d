import shutil
from collections import namedtuple

import pytest

from composing import compose
from diffusae.collecting.truncation import count_truncated
from diffusae.errors import UserError
from diffusae.prompts.prompt_set import Prompt
from diffusae.stages import collect as stage
from diffusae.study.streams import groups_of
from diffusae.study.study import Study


def study_in(directory, *overrides):
    return Study(
        compose("collect", overrides=["debug=tiny", f"paths.outputs={directory}", *overrides])
    )


def test_too_little_disk_is_refused_before_the_model_loads(tmp_path, monkeypatch, unloadable):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(UserError, match="free"):
        stage.collect(study_in(tmp_path).cfg)


def test_an_unknown_hookpoint_is_refused_before_the_model_loads(tmp_path, unloadable):
    study = study_in(tmp_path, "model.hookpoints.mid=mid_block.attentions.7")
    with pytest.raises(
        UserError, match=r"(?s)mid_block.attentions.7.*known: .*mid_block.attentions.0"
    ):
        stage.collect(study.cfg)


def test_a_model_that_cannot_be_had_is_told_with_what_would_serve(tmp_path, unloadable):
    study = study_in(tmp_path, "model=sd14", f"model.source={tmp_path / 'nowhere'}")
    with pytest.raises(UserError, match=r"set model.source to a local folder"):
        stage.collect(study.cfg)


def test_groups_hold_one_split_each_and_at_most_the_group_size():
    prompts = [Prompt(str(i), "a fish", i, "train" if i < 5 else "test") for i in range(8)]
    groups = [[p.image_id for p in group] for group in groups_of(prompts, 3)]
    assert groups == [["0", "1", "2"], ["3", "4"], ["5", "6", "7"]]


class Tokenizer:
    """A word a token, with a start and an end."""

    model_max_length = 5

    def __call__(self, texts):
        return namedtuple("Encoded", "input_ids")(
            [[0, *range(len(text.split())), 1] for text in texts]
        )


def test_captions_beyond_the_tokenizer_are_counted_and_named_by_their_lines(caplog):
    long = [
        Prompt(f"{n:06d}", "a b c d", n, "train", f"captions.txt, line {n + 7}") for n in range(12)
    ]
    short = Prompt("000012", "a b c", 12, "train")
    assert count_truncated(Tokenizer(), 5, [short, *long]) == 12
    assert (
        "12 of 13 prompts exceed 5 tokens and are truncated: captions.txt, line 7 ('a b c d')"
        in caplog.text
    )
    assert "line 16" in caplog.text and "line 17" not in caplog.text and "and 2 more" in caplog.text
    assert count_truncated(Tokenizer(), 5, [short]) == 0
