from __future__ import annotations

import numpy as np
import pytest

from diffusae.miniature.pictures import PLACES, WorldPictures, labels_of, scene_of
from diffusae.miniature.world import Scene, Thing, render
from diffusae.miniature.worlds import SCENES

COUNTS = {"train": 30, "test": 6}


def thing(noun: str, x: float, y: float) -> Thing:
    return Thing(noun, "red", x, y, 12.0, 0.0, False)


@pytest.mark.parametrize(
    ("x", "y", "place"),
    [
        (31.9, 31.9, "top_left"),
        (32.1, 31.9, "top_right"),
        (31.9, 32.1, "bottom_left"),
        (50, 50, "bottom_right"),
    ],
)
def test_one_object_has_all_labels_and_the_quadrant_of_its_centre_is_its_place(x, y, place) -> None:
    scene = Scene((thing("fish", x, y),), "neon", "fog", "smooth", 0)
    assert labels_of(scene) == {
        "object": "fish", "colour": "red", "place": place, "count": "1", "style": "neon",
    }  # fmt: skip


def test_several_objects_have_only_their_number_and_style() -> None:
    scene = Scene((thing("fish", 15, 15), thing("house", 48, 48)), "flat", "fog", "smooth", 0)
    assert labels_of(scene) == {"count": "2", "style": "flat"}


def test_pictures_are_those_of_their_scenes_in_their_splits() -> None:
    source = WorldPictures(COUNTS)
    listed = source.listed()
    assert [split for _, split, _ in listed] == ["train"] * 30 + ["test"] * 6
    assert listed == WorldPictures(COUNTS).listed()
    assert np.array_equal(source.picture(3), render(scene_of(3)).picture)
    assert len({name for name, *_ in listed}) == 36
    tasks = source.tasks()
    assert tasks["place"] == list(PLACES)
    for *_, labels in listed:
        assert all(label in tasks[task] for task, label in labels.items())
    assert {len(labels) for *_, labels in listed} == {2, 5}


def test_pictures_of_the_other_world_have_its_labels_and_another_fingerprint() -> None:
    source = WorldPictures(COUNTS, world="scenes")
    assert source.fingerprint() != WorldPictures(COUNTS).fingerprint()
    assert source.tasks()["object"] == list(SCENES.nouns)
    scene = scene_of(3, "scenes")
    assert np.array_equal(source.picture(3), SCENES.render(scene).picture)
    assert source.listed()[3][2]["style"] == scene.style
