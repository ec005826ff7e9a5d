import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from diffusae.concepts.annotation_cache import AnnotationCache, picture_key
from diffusae.concepts.annotators import Annotation

PICTURE = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


def same(first, second):
    assert list(first.masks) == list(second.masks)
    for noun, mask in first.masks.items():
        assert second.masks[noun].dtype == np.bool_
        np.testing.assert_array_equal(mask, second.masks[noun])
    for field in ("factors", "scores", "colours"):
        assert getattr(first, field) == getattr(second, field)


@given(
    masks=arrays(bool, st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(1, 9))),
    scores=st.lists(st.floats(-1, 1)),
)
def test_what_is_kept_comes_back(tmp_path_factory, masks, scores):
    annotation = Annotation(
        masks={f"noun é {n}": mask for n, mask in enumerate(masks)},
        colours={"fish": "red"},
        factors={"style": "flat"},
        scores={"style": scores},
    )
    cache = AnnotationCache(tmp_path_factory.getbasetemp() / "cache")
    cache.put("ab12", annotation)
    back = cache.get("ab12")
    assert back is not None
    same(annotation, back)


def test_a_picture_without_any_mask_is_stored_too(tmp_path):
    cache = AnnotationCache(tmp_path)
    assert cache.get("ab") is None
    cache.put("ab", Annotation())
    assert cache.get("ab") == Annotation()


def test_the_key_follows_every_pixel_the_shape_and_the_context():
    keys = {
        picture_key(PICTURE, {"a": 1}),
        picture_key(PICTURE, {"a": 2}),
        picture_key(PICTURE.reshape(7, 5, 3), {"a": 1}),
    }
    for place in ((0, 0, 0), (4, 6, 2)):
        other = PICTURE.copy()
        other[place] ^= 1
        keys.add(picture_key(other, {"a": 1}))
    assert len(keys) == 5
    assert picture_key(PICTURE, {"a": 1, "b": 2}) == picture_key(PICTURE.copy(), {"b": 2, "a": 1})
    assert picture_key(np.asfortranarray(PICTURE), {}) == picture_key(PICTURE, {})


@pytest.fixture
def entry(tmp_path):
    cache = AnnotationCache(tmp_path)
    cache.put("abcd", Annotation(masks={"fish": np.eye(16, dtype=bool)}, factors={"style": "flat"}))
    return cache, cache.path("abcd")


def test_every_flipped_bit_is_noticed_and_logged(entry, caplog):
    cache, path = entry
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert cache.get("abcd") is None, f"byte {place}"
    assert "is damaged" in caplog.text
    path.write_bytes(whole)
    assert cache.get("abcd") is not None


def test_a_cut_or_foreign_file_is_no_entry(entry):
    cache, path = entry
    whole = path.read_bytes()
    for cut in (0, 3, 40, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert cache.get("abcd") is None
    path.write_bytes(whole)
    other = cache.path("abef")
    path.rename(other)
    assert cache.get("abef") is None, "an entry under another picture's name"


def test_a_kill_while_writing_leaves_no_entry(tmp_path, monkeypatch):
    cache = AnnotationCache(tmp_path)

    def kill(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", kill)
    with pytest.raises(KeyboardInterrupt):
        cache.put("abcd", Annotation())
    assert cache.get("abcd") is None


def test_an_entry_is_a_safetensors_file_of_bits(entry):
    _, path = entry
    size = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + size])
    assert header["masks"]["dtype"] == "U8" and header["masks"]["shape"] == [1, 32]
