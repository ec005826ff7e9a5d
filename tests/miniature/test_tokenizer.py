from transformers import CLIPTokenizer

from diffusae.miniature.captions import captioned_scene, vocabulary
from diffusae.miniature.tokenizer import MAX_TOKENS, build_tokenizer


def test_every_word_of_the_world_is_one_token():
    tokenizer = build_tokenizer(vocabulary())
    assert [word for word in vocabulary() if len(tokenizer(word)["input_ids"]) != 3] == []


def test_other_words_are_split_and_decoded_unchanged():
    tokenizer = build_tokenizer(vocabulary())
    pieces = tokenizer("a redd zebra")["input_ids"]
    assert len(pieces) > 6
    assert tokenizer.unk_token_id not in pieces[1:-1]
    assert str(tokenizer.decode(pieces, skip_special_tokens=True)).strip() == "a redd zebra"


def test_no_caption_is_cut_off():
    tokenizer = build_tokenizer(vocabulary())
    captions = [captioned_scene(seed, held_out=False)[1] for seed in range(300)]
    lengths = [len(ids) for ids in tokenizer(captions)["input_ids"]]
    assert max(lengths) <= MAX_TOKENS


def test_the_tokenizer_survives_its_folder(tmp_path):
    tokenizer = build_tokenizer(vocabulary())
    tokenizer.save_pretrained(tmp_path)
    text = "a neon drawing of a red fish"
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
