"""The pool of drawn scenes on disk, from which every part of the miniature is trained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from rich.progress import track

from diffusae.files import atomic_path, atomic_write_json
from diffusae.miniature.world import SIZE, Render, Scene
from diffusae.miniature.worlds import World, world_of


@dataclass(frozen=True)
class Pool:
    """Drawn scenes, memory-mapped.

    Attributes:
        pictures: uint8 `[n, SIZE, SIZE, 3]`.
        nouns: uint8 `[n, SIZE, SIZE]`, 1 + the index of the label; 0: no label.
        colours: uint8 `[n, SIZE, SIZE]`, 1 + the index of the object's colour; 0: ground.
        factors: uint8 `[n, 3]`: indices of style, tone and grain.
        captions: n texts.
    """

    pictures: np.ndarray
    nouns: np.ndarray
    colours: np.ndarray
    factors: np.ndarray
    captions: list[str]

    def __len__(self) -> int:
        return len(self.captions)


def labels_of(
    world: World, scene: Scene, drawn: Render
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The noun map, the colour map and the factor indices of a drawn scene, coded as in `Pool`."""
    nouns = np.zeros((SIZE, SIZE), np.uint8)
    colours = np.zeros((SIZE, SIZE), np.uint8)
    for noun, mask in drawn.masks.items():
        nouns[mask] = 1 + world.labels.index(noun)
    for thing, mask in zip(scene.things, drawn.instances, strict=True):
        colours[mask] = 1 + world.colours.index(thing.colour)
    factors = [names.index(getattr(scene, f)) for f, names in world.factors.items()]
    return nouns, colours, np.asarray(factors, np.uint8)


def _draw(job: tuple[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, str]:
    name, seed = job
    world = world_of(name)
    scene, text = world.captioned_scene(seed, held_out=False)
    drawn = world.render(scene)
    return drawn.picture, *labels_of(world, scene, drawn), text


def _draw_all(world: str, count: int, workers: int) -> Iterator[tuple]:
    jobs = ((world, seed) for seed in range(count))
    if workers <= 1:
        yield from map(_draw, jobs)
        return
    with get_context("spawn").Pool(workers) as processes:
        yield from processes.imap(_draw, jobs, chunksize=256)


def build_pool(directory: Path, count: int, *, world: World, workers: int = 1) -> Pool:
    """Draw `count` scenes (seeds 0, 1, ...) into `directory`, or open the ones drawn before.

    None of them is left out of training.
    """
    shapes = {
        "pictures": (SIZE, SIZE, 3), "nouns": (SIZE, SIZE), "colours": (SIZE, SIZE),
        "factors": (len(world.factors),),
    }  # fmt: skip
    paths = {name: directory / f"{name}.npy" for name in shapes}
    if not (directory / "captions.json").exists():
        arrays = {name: np.empty((count, *shape), np.uint8) for name, shape in shapes.items()}
        captions: list[str] = []
        drawn = track(_draw_all(world.name, count, workers), "drawing scenes", total=count)
        for i, (*values, text) in enumerate(drawn):
            for name, value in zip(shapes, values, strict=True):
                arrays[name][i] = value
            captions.append(text)
        for name, path in paths.items():
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                np.save(file, arrays[name], allow_pickle=False)
        atomic_write_json(directory / "captions.json", captions)
    opened = {key: np.load(path, mmap_mode="r", allow_pickle=False) for key, path in paths.items()}
    captions = json.loads((directory / "captions.json").read_text())
    return Pool(**opened, captions=captions)
