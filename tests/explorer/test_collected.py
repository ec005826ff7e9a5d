"""The list of collected pictures."""

from pathlib import Path

import numpy as np
import pytest

from diffusae.activations.writer import ActivationWriter
from diffusae.errors import UserError
from diffusae.explorer.collected import CollectedPicture, CollectedPictures
from small_collections import sample_of, stream_of

PROMPTS = {
    "train": ["a cat"],  # may be thinned, so it is not listed
    "dictionary": ["a Red fish", "a boat"],
    "test": ["a red boat", "<b>red</b>", "a cup"],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Pictures with the ids train0, test0, test1 and so on, and their number as the seed."""
    stream = stream_of((1, 2), 3)
    writer = ActivationWriter(tmp_path, streams=[stream], header={"model": "toy"})
    updates, image = {stream.folder: np.zeros((2, 3), np.float32)}, np.zeros((4, 4, 3), np.uint8)
    for group, (split, prompts) in enumerate(PROMPTS.items()):
        writer.write_group(
            group,
            [
                sample_of(f"{split}{n}", n, split, updates, prompt=prompt, image=image)
                for n, prompt in enumerate(prompts)
            ],
        )
    writer.finish()
    return tmp_path


def ids(pictures: list[CollectedPicture]) -> list[str]:
    return [picture.image_id for picture in pictures]


def test_pages_list_every_picture_with_its_whole_grids_once(root: Path):
    collected = CollectedPictures(root)
    first, following = collected.page("", 0, 3)
    assert (ids(first), following) == (["test0", "test1", "test2"], 3)
    second, following = collected.page("", 3, 3)
    assert (ids(second), following) == (["dictionary0", "dictionary1"], None)


def test_a_word_of_the_prompt_finds_pictures_in_any_case(root: Path):
    found, following = CollectedPictures(root).page(" RED ", 0, 10)
    assert (ids(found), following) == (["test0", "test1", "dictionary0"], None)


def test_a_picture_has_its_prompt_and_seed(root: Path):
    assert CollectedPictures(root).find("test1") == CollectedPicture("test1", "<b>red</b>", 1)
    assert CollectedPictures(root).find("train0") is None


def test_shards_are_read_as_far_as_they_are_asked_for(root: Path):
    (damaged,) = (root / "images").glob("shard-000001.tar")  # of the split dictionary
    damaged.write_bytes(damaged.read_bytes()[:700])
    collected = CollectedPictures(root)
    assert len(collected.page("", 0, 2)[0]) == 2
    for _ in range(2):  # it says so every time, and lists nothing twice
        with pytest.raises(UserError, match=r"shard-000001\.tar is damaged"):
            collected.page("", 0, 10)
    assert ids(collected.page("", 0, 2)[0]) == ["test0", "test1"]


def test_a_study_without_a_collection_says_so(tmp_path: Path):
    with pytest.raises(UserError, match="the collection is not finished"):
        CollectedPictures(tmp_path).page("", 0, 1)
