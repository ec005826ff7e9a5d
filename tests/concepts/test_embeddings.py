import importlib.util
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from diffusae.concepts.embeddings import (
    MiniLMEmbedding,
    TextEncoderEmbedding,
    Word2VecEmbedding,
    embed_labels,
)
from diffusae.errors import UserError


class Table:
    """An embedding of a few words, for the tests."""

    name = "table"

    def __init__(self, **vectors):
        self.vectors = {word: torch.tensor(vector) for word, vector in vectors.items()}

    def known(self, word):
        return word in self.vectors

    def embed(self, words):
        return torch.stack([self.vectors[word] for word in words])


def test_a_label_without_embedding_is_left_out_and_phrases_are_means_of_known_words():
    table = Table(traffic=[1.0, 0.0], light=[0.0, 1.0])
    labels, vectors = embed_labels(table, ["traffic light", "zyx", "light", "old light", "light"])
    assert labels == ["traffic light", "light", "old light"]
    half = 0.5**0.5
    torch.testing.assert_close(vectors, torch.tensor([[half, half], [0.0, 1.0], [0.0, 1.0]]))


def test_no_known_label_gives_no_rows():
    labels, vectors = embed_labels(Table(), ["cat"])
    assert labels == []
    assert len(vectors) == 0


def test_minilm_orders_words_sanely_and_loads_without_network():
    embedding = MiniLMEmbedding()
    vectors = embedding.embed(["cat", "kitten", "dog", "sky"])
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))
    to_cat = (vectors @ vectors[0]).tolist()
    # Figures of the reference implementation (sentence-transformers): .79, .66, .29.
    assert to_cat[1:] == pytest.approx([0.79, 0.66, 0.29], abs=0.006)
    torch.testing.assert_close(embedding.embed(["sky"]), vectors[3:], atol=1e-5, rtol=0)
    assert embedding.known("cat")
    assert not embedding.known(" ")


def test_word2vec_reads_its_text_format_or_says_what_to_install(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text("2 2\ncat 3 4\ntraffic_light 0 2\n")
    embedding = Word2VecEmbedding(path)
    if importlib.util.find_spec("gensim"):
        assert embedding.known("traffic light")
        vectors = embedding.embed(["cat", "traffic light"])
        torch.testing.assert_close(vectors, torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    else:
        with pytest.raises(UserError, match=r"pip install diffusae\[word2vec\]"):
            embedding.known("cat")


def test_word2vec_without_gensim_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "vectors.bin.gz"
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "gensim", None)
    monkeypatch.setitem(sys.modules, "gensim.models", None)
    with pytest.raises(UserError, match=r"pip install diffusae\[word2vec\]"):
        Word2VecEmbedding(path).known("cat")


def test_word2vec_refuses_pickled_formats_and_missing_files(tmp_path):
    with pytest.raises(UserError, match=r"\.bin, \.bin\.gz, \.txt or \.vec"):
        Word2VecEmbedding(tmp_path / "vectors.kv")
    with pytest.raises(UserError, match="does not exist"):
        Word2VecEmbedding(tmp_path / "vectors.txt")


class Letters:
    """A tokenizer with one token a letter, 1 and 2 around a text, and z unknown."""

    unk_token_id = 0

    def __call__(self, text, *, add_special_tokens=True):
        tokens = [0 if letter == "z" else ord(letter) for letter in text]
        return {"input_ids": [1, *tokens, 2] if add_special_tokens else tokens}


def encoder(tokens):
    states = torch.stack([tokens.float(), torch.ones_like(tokens).float()], dim=-1)
    return SimpleNamespace(last_hidden_state=states)


encoder.device = torch.device("cpu")


def test_the_text_encoder_is_read_at_the_words_own_tokens():
    last = TextEncoderEmbedding(Letters(), encoder).embed(["ab"])
    torch.testing.assert_close(last, F.normalize(torch.tensor([[98.0, 1.0]]), dim=1))
    mean = TextEncoderEmbedding(Letters(), encoder, pooling="mean").embed(["ac"])
    torch.testing.assert_close(mean, F.normalize(torch.tensor([[98.0, 1.0]]), dim=1))


def test_a_word_of_unknown_or_no_tokens_has_no_text_embedding():
    embedding = TextEncoderEmbedding(Letters(), encoder)
    assert embedding.known("ab")
    assert not embedding.known("az")
    assert not embedding.known("")


def test_an_unknown_pooling_is_refused():
    with pytest.raises(UserError, match="known: last, mean"):
        TextEncoderEmbedding(Letters(), encoder, pooling="first")  # type: ignore[arg-type]
