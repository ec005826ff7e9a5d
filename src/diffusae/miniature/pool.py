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
from diffusae.miniature.captions import captioned_scene
from diffusae.miniature.shapes import NOUNS
from diffusae.miniature.styles import COLOURS, GRAINS, STYLES, TONES
from diffusae.miniature.world import SIZE, Scene, render

NOUN_INDEX = {name: i for i, name in enumerate(NOUNS)}
COLOUR_INDEX = {name: i for i, name in enumerate(COLOURS)}
FACTORS = {"style": tuple(STYLES), "tone": tuple(TONES), "grain": GRAINS}


@dataclass(frozen=True)
class Pool:
    """Drawn scenes, memory-mapped.

    Attributes:
        pictures: uint8 `[n, SIZE, SIZE, 3]`.
        nouns: uint8 `[n, SIZE, SIZE]`, 0 for the background, else 1 + the noun's index.
        colours: uint8 `[n, SIZE, SIZE]`, the same for colours.
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
    scene: Scene, masks: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The noun map, the colour map and the factor indices of a drawn scene, coded as in `Pool`."""
    nouns = np.zeros((SIZE, SIZE), np.uint8)
    colours = np.zeros((SIZE, SIZE), np.uint8)
    for thing in scene.things:
        nouns[masks[thing.noun]] = 1 + NOUN_INDEX[thing.noun]
        colours[masks[thing.noun]] = 1 + COLOUR_INDEX[thing.colour]
    factors = [FACTORS[f].index(getattr(scene, f)) for f in FACTORS]
    return nouns, colours, np.asarray(factors, np.uint8)


def _draw(job: tuple[int, bool]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, str]:
    seed, held_out = job
    scene, text = captioned_scene(seed, held_out=held_out)
    drawn = render(scene)
    return drawn.picture, *labels_of(scene, drawn.masks), text


def _draw_all(count: int, held_out: bool, workers: int) -> Iterator[tuple]:
    jobs = ((seed, held_out) for seed in range(count))
    if workers <= 1:
        yield from map(_draw, jobs)
        return
    with get_context("spawn").Pool(workers) as processes:
        yield from processes.imap(_draw, jobs, chunksize=256)


def build_pool(directory: Path, count: int, *, held_out: bool = False, workers: int = 1) -> Pool:
    """Draw `count` scenes (seeds 0, 1, ...) into `directory`, or open the ones drawn before."""
    shapes = {
        "pictures": (SIZE, SIZE, 3), "nouns": (SIZE, SIZE), "colours": (SIZE, SIZE),
        "factors": (len(FACTORS),),
    }  # fmt: skip
    paths = {name: directory / f"{name}.npy" for name in shapes}
    if not (directory / "captions.json").exists():
        arrays = {name: np.empty((count, *shape), np.uint8) for name, shape in shapes.items()}
        captions: list[str] = []
        drawn = track(_draw_all(count, held_out, workers), "drawing scenes", total=count)
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
