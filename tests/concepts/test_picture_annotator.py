from typing import Any

import numpy as np
import pytest
import torch

from diffusae.concepts.annotations import Annotations, annotate_pictures
from diffusae.concepts.annotators import Annotation
from diffusae.concepts.picture_annotator import EVERYDAY, PictureAnnotator
from diffusae.concepts.words import Vocabulary
from diffusae.errors import UserError

WORDS = ["fish", "tree"]


class Finder:
    """Finds a fish wherever a picture is bright; `looks`: the sizes of the batches it got."""

    def __init__(self, *, reads_captions=False, threshold=128):
        self.reads_captions, self.threshold, self.looks = reads_captions, threshold, []
        self.captions = None

    def find(self, images, vocabulary, captions):
        assert vocabulary == tuple(WORDS)
        self.looks.append(len(images))
        self.captions = captions
        bright = images[..., 0] > self.threshold
        return [[("fish", mask), ("fish", mask & False), ("tree", mask & False)] for mask in bright]

    def identity(self):
        return {"finder": "bright", "threshold": self.threshold}


class Styles:
    factors = {"tone": ("day", "night")}  # noqa: RUF012

    def score(self, images):
        return [{"tone": [light := float(image.mean()) / 255, 1 - light]} for image in images]

    def identity(self):
        return {"styles": "light"}


def pictures(n, *, bright=4):
    made = np.zeros((n, 8, 10, 3), np.uint8)
    made[:, :, :bright] = np.arange(200, 200 + n, dtype=np.uint8)[:, None, None, None]
    return made


def test_an_annotation_has_masks_styles_and_scores():
    annotator = PictureAnnotator(Finder(), styles=Styles(), vocabulary=WORDS)  # type: ignore[arg-type]
    lit = np.full((1, 8, 10, 3), 250, np.uint8)
    dark, lit = annotator.annotate(np.concatenate([pictures(1), lit]))
    assert list(dark.masks) == ["fish"] and dark.masks["fish"].sum() == 8 * 4
    assert dark.factors == {"tone": "night"} and lit.factors == {"tone": "day"}
    assert dark.scores["tone"] == pytest.approx([200 * 0.4 / 255, 1 - 200 * 0.4 / 255])
    assert annotator.factors == {"tone": ("day", "night")} and annotator.labels == ("fish", "tree")
    assert PictureAnnotator(Finder(), vocabulary=WORDS).factors == {} and dark.style is None


def test_no_object_and_a_mask_below_the_least_area_give_no_mask():
    annotator = PictureAnnotator(Finder(), vocabulary=WORDS, minimum_area=0.2)
    shown = [pictures(1, bright=columns) for columns in (0, 1, 2)]
    annotations = annotator.annotate(np.concatenate(shown))
    assert [list(annotation.masks) for annotation in annotations] == [[], [], ["fish"]]


def test_pictures_go_through_in_batches_and_no_picture_twice(tmp_path):
    finder = Finder()
    annotator = PictureAnnotator(finder, vocabulary=WORDS, cache=tmp_path, batch_size=2)
    first = annotator.annotate(pictures(5))
    assert finder.looks == [2, 2, 1]
    again = annotator.annotate(pictures(7))
    assert finder.looks == [2, 2, 1, 2], "the two new ones"
    for one, other in zip(first, again, strict=False):
        np.testing.assert_array_equal(one.masks["fish"], other.masks["fish"])
    assert PictureAnnotator(Finder(), vocabulary=WORDS, cache=tmp_path).annotate(pictures(7))
    uncached = Finder()
    PictureAnnotator(uncached, vocabulary=WORDS).annotate(pictures(3))
    assert uncached.looks == [3]


@pytest.mark.parametrize(
    "other",
    [{"objects": Finder(threshold=100)}, {"minimum_area": 0.1}, {"styles": Styles()},
     {"vocabulary": Vocabulary(WORDS, {"fish": ["carp"]})}],
)  # fmt: skip
def test_another_setting_does_not_read_the_cached_annotations_of_this_one(tmp_path, other):
    PictureAnnotator(Finder(), vocabulary=WORDS, cache=tmp_path).annotate(pictures(2))
    settings = {"objects": Finder(), "vocabulary": WORDS} | other
    finder = settings.pop("objects")
    finder.looks.clear()
    PictureAnnotator(finder, cache=tmp_path, **settings).annotate(pictures(2))
    assert finder.looks == [2]


def test_a_corrupt_entry_is_annotated_again(tmp_path, caplog):
    finder = Finder()
    annotator = PictureAnnotator(finder, vocabulary=WORDS, cache=tmp_path)
    first = annotator.annotate(pictures(3))
    broken = sorted(tmp_path.rglob("*.safetensors"))[1]
    broken.write_bytes(broken.read_bytes()[:-1])
    again = annotator.annotate(pictures(3))
    assert finder.looks == [3, 1] and str(broken) in caplog.text
    for one, other in zip(first, again, strict=True):
        assert (one.masks["fish"] == other.masks["fish"]).all()
    annotator.annotate(pictures(3))
    assert finder.looks == [3, 1], "it was written again"


def test_a_caption_counts_only_where_the_finder_reads_it(tmp_path):
    blind = Finder()
    annotator = PictureAnnotator(blind, vocabulary=WORDS, cache=tmp_path / "blind")
    annotator.annotate(pictures(1), ["a fish"])
    annotator.annotate(pictures(1), ["a tree"])
    assert blind.looks == [1] and blind.captions is None
    reader = Finder(reads_captions=True)
    annotator = PictureAnnotator(reader, vocabulary=WORDS, cache=tmp_path / "reader")
    for caption in ("a fish", "a tree", "a fish"):
        annotator.annotate(pictures(1), [caption])
    assert reader.looks == [1, 1] and reader.captions == ["a tree"]
    with pytest.raises(UserError, match="2 captions for 1 pictures"):
        annotator.annotate(pictures(1), ["a", "b"])


def test_out_of_memory_names_the_batch_size_to_try_and_keeps_finished_batches(tmp_path):
    class Greedy(Finder):
        def find(self, images, vocabulary, captions):
            if len(self.looks) == 1:
                raise torch.OutOfMemoryError
            return super().find(images, vocabulary, captions)

    annotator = PictureAnnotator(Greedy(), vocabulary=WORDS, cache=tmp_path, batch_size=2)
    with pytest.raises(UserError, match=r"annotator\.batch_size=2; try annotator\.batch_size=1"):
        annotator.annotate(pictures(4))
    finder = Finder()
    PictureAnnotator(finder, vocabulary=WORDS, cache=tmp_path, batch_size=2).annotate(pictures(4))
    assert finder.looks == [2]


def test_the_table_of_annotations_is_built_from_it(tmp_path):
    annotator = PictureAnnotator(Finder(), styles=Styles(), vocabulary=WORDS)  # type: ignore[arg-type]
    given = zip(["a", "b"], pictures(2), ["x", "y"], strict=True)
    annotate_pictures(annotator, given).save(tmp_path)
    annotations = Annotations.load(tmp_path)
    assert annotations.masks["a"]["fish"].sum() == 32
    np.testing.assert_array_equal(annotations.masks["b"]["fish"], annotations.second["b"]["fish"])


def test_settings_out_of_range_are_refused():
    faults: dict[str, dict[str, Any]] = {
        "batch_size=0": {"batch_size": 0},
        "minimum_area=1.0": {"minimum_area": 1.0},
    }
    for message, setting in faults.items():
        with pytest.raises(UserError, match=message):
            PictureAnnotator(Finder(), vocabulary=WORDS, **setting)
    with pytest.raises(UserError, match="no readable vocabulary"):
        PictureAnnotator(Finder(), vocabulary="nowhere.txt")


def test_the_shipped_vocabulary_has_the_papers_objects_and_no_ambiguity():
    vocabulary = PictureAnnotator(Finder()).labels
    papers = ["bee", "book", "dog", "apple", "banana", "cat", "car", "phone", "door", "bird"]
    assert vocabulary.labels_of(papers) == [label for label in vocabulary if label in papers]
    assert set(papers) <= set(vocabulary) and EVERYDAY.is_file()
    assert Annotation().masks == {}
