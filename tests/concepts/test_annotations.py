"""Annotations: pictures are annotated as they come; masks survive packing and the disk exactly."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from diffusae.concepts.annotations import Annotations, PackedMasks, annotate_pictures
from diffusae.concepts.annotators import Annotation
from diffusae.errors import UserError


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=19)), st.booleans())
def test_a_packed_mask_is_the_mask(mask, turned):
    masks = PackedMasks(["a", "b"])
    masks.add("a", {"fish": mask.T[::-1] if turned else mask})  # not contiguous
    assert np.array_equal(masks["a"]["fish"], mask.T[::-1] if turned else mask)
    assert masks["b"] == {} and list(masks) == ["a", "b"] and masks.nouns("a") == ["fish"]


class _Bright:
    """Finds the bright pixels of a picture, and records how many pictures it got at once."""

    labels = ("light",)
    factors = {"style": ("flat",)}  # noqa: RUF012

    def __init__(self):
        self.shown = []

    def annotate(self, images, /, captions=None):
        assert captions is not None
        assert len(captions) == len(images)
        self.shown.append(len(images))
        masks = [image[..., 0] > 200 for image in images]
        return [
            Annotation({"light": mask} if mask.any() else {}, factors={"style": "flat"})
            for mask in masks
        ]


def _pictures(n):
    for row in range(n):
        picture = np.zeros((4, 6, 3), np.uint8)
        if row % 2:
            picture[1, row] = 255
        yield f"picture-{row}", picture, "a light"


def test_pictures_are_annotated_in_batches_and_again_in_the_mirror(tmp_path):
    annotator = _Bright()
    annotations = annotate_pictures(annotator, _pictures(5), at_once=2)
    assert annotator.shown == [2, 2, 2, 2, 1, 1]
    annotations.save(tmp_path)
    for kept in (annotations, Annotations.load(tmp_path)):
        assert list(kept.masks) == list(kept.second) == [f"picture-{row}" for row in range(5)]
        assert kept.masks["picture-2"] == {}
        assert np.argwhere(kept.masks["picture-3"]["light"]).tolist() == [[1, 3]]
        assert np.argwhere(kept.second["picture-3"]["light"]).tolist() == [[1, 3]], "mirrored back"
        assert kept.described["style"].tolist() == ["flat"] * 5


def test_colours_and_factors_are_kept_and_tables_without_them_say_how_to_make_them(tmp_path):
    class Coloured(_Bright):
        def annotate(self, images, /, captions=None):
            shown = {"light": "red"}
            return [
                Annotation(m.masks, shown, m.factors) for m in super().annotate(images, captions)
            ]

    annotate_pictures(Coloured(), _pictures(2)).save(tmp_path)
    kept = Annotations.load(tmp_path)
    assert kept.colours()["picture-1"] == {"light": "red"}
    assert kept.factors() == {f"picture-{row}": {"style": "flat"} for row in range(2)}
    before = replace(kept, described=kept.described[["image_id", "style"]])
    before.save(tmp_path)
    with pytest.raises(UserError, match="before colours were kept; remove the study's annotations"):
        Annotations.load(tmp_path).colours()
    broken = kept.described.assign(factors="[1]")
    with pytest.raises(UserError, match="factors of picture picture-0 is damaged"):
        replace(kept, described=broken).factors()


def test_a_damaged_or_foreign_table_is_named_with_the_remedy(tmp_path):
    annotate_pictures(_Bright(), _pictures(2)).save(tmp_path)
    foreign = pd.DataFrame({"look": ["first"], "image_id": ["picture-0"], "noun": ["light"]})
    foreign.to_parquet(tmp_path / "objects.parquet")
    with pytest.raises(UserError, match="run `diffusae annotate`"):
        Annotations.load(tmp_path)
    (tmp_path / "objects.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"objects.parquet is damaged"):
        Annotations.load(tmp_path)
