from transformers import CLIPTokenizer

from diffusae.miniature.captions import captioned_scene, vocabulary
from diffusae.miniature.tokenizer import MAX_TOKENS, build_tokenizer


def test_every_word_of_the_world_is_one_token():
    tokenizer = build_tokenizer(vocabulary())
    assert [word for word in vocabulary() if len(tokenizer(word)["input_ids"]) != 3] == []


def test_other_words_fall_into_pieces_and_come_back():
    tokenizer = build_tokenizer(vocabulary())
    pieces = tokenizer("a redd zebra")["input_ids"]
    assert len(pieces) > 6
    assert tokenizer.unk_token_id not in pieces[1:-1]
    assert str(tokenizer.decode(pieces, skip_special_tokens=True)).strip() == "a redd zebra"


def test_no_caption_is_cut_off():
    tokenizer = build_tokenizer(vocabulary())
    lengths = [
        len(tokenizer(captioned_scene(seed, held_out=False)[1])["input_ids"]) for seed in range(300)
    ]
    assert max(lengths) <= MAX_TOKENS


def test_the_tokenizer_survives_its_folder(tmp_path):
    tokenizer = build_tokenizer(vocabulary())
    tokenizer.save_pretrained(tmp_path)
    text = "a neon drawing of a red fish"
    assert (
        CLIPTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == tokenizer(text)["input_ids"]
    )
