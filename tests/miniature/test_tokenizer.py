import pytest
from transformers import CLIPTokenizer

from composing import compose
from diffusae.miniature.settings import TrainingSettings
from diffusae.miniature.shipped import SHIPPED
from diffusae.miniature.tokenizer import MAX_TOKENS, build_tokenizer, learned_merges
from diffusae.miniature.train import MiniatureTraining
from diffusae.miniature.worlds import SCENES, SHAPES

WORLDS = pytest.mark.parametrize("world", [SHAPES, SCENES], ids=lambda world: world.name)


@WORLDS
def test_every_word_of_the_world_is_one_token(world):
    tokenizer = build_tokenizer(world.vocabulary())
    assert [word for word in world.vocabulary() if len(tokenizer(word)["input_ids"]) != 3] == []


def test_other_words_are_split_and_decoded_unchanged():
    tokenizer = build_tokenizer(SHAPES.vocabulary())
    pieces = tokenizer("a redd zebra")["input_ids"]
    assert len(pieces) > 6
    assert tokenizer.unk_token_id not in pieces[1:-1]
    assert str(tokenizer.decode(pieces, skip_special_tokens=True)).strip() == "a redd zebra"


@WORLDS
def test_no_caption_is_cut_off(world):
    tokenizer = build_tokenizer(world.vocabulary())
    captions = [world.captioned_scene(seed, held_out=False)[1] for seed in range(300)]
    lengths = [len(ids) for ids in tokenizer(captions)["input_ids"]]
    assert max(lengths) <= MAX_TOKENS


def test_the_tokenizer_survives_its_folder(tmp_path):
    tokenizer = build_tokenizer(SHAPES.vocabulary())
    tokenizer.save_pretrained(tmp_path)
    text = "a neon drawing of a red fish"
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_the_most_frequent_pair_is_merged_first_and_ties_follow_the_alphabet():
    # aab: a a b</w>; ab: a b</w>; ca: c a</w>. The pair a, b</w> comes twice, all others once.
    assert learned_merges(["ab", "ca", "aab"]) == [("a", "b</w>"), ("a", "ab</w>"), ("c", "a</w>")]


def test_the_words_of_the_shipped_world_are_those_of_its_weights():
    shipped = CLIPTokenizer.from_pretrained(SHIPPED / "tokenizer")
    words = {f"{word}</w>" for word in SHAPES.vocabulary()}
    assert words <= set(shipped.get_vocab())
    assert [word for word in SHAPES.vocabulary() if len(shipped(word)["input_ids"]) != 3] == []


def test_a_training_that_goes_on_from_a_folder_keeps_its_tokens(tmp_path):
    settings = {**compose("miniature").training, "start_from": str(SHIPPED)}
    training = MiniatureTraining(tmp_path, TrainingSettings(**settings))
    shipped = CLIPTokenizer.from_pretrained(SHIPPED / "tokenizer")
    assert training.tokenizer().get_vocab() == shipped.get_vocab()
