"""A study of any size in the formats of a real one, made of random numbers in seconds.

No picture was generated and nothing was trained. Its autoencoders have random directions, but for
the cells of one block: there latent 0 has nearly the same direction at all times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from composing import compose
from diffusae.activations.schema import Cell, CollectedSample, Stream
from diffusae.activations.writer import ActivationWriter
from diffusae.concepts.dictionary import ConceptDictionary
from diffusae.concepts.gallery import Gallery
from diffusae.runs.record import run_record
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
from diffusae.sae.storage import save_sae
from diffusae.study.study import Study

NOUNS = ("background", "boat", "car", "cat", "fish", "hot dog", "house", "traffic light", "tree")


GROUP = 32
"""Pictures in a shard, as a study has it."""


@dataclass(frozen=True)
class Size:
    """How large a study is. `labels`: of a labelled latent; a third of all latents has none."""

    blocks: Sequence[str] = ("down", "mid")
    times: Sequence[float] = (1.0, 0.5)
    branches: Sequence[str] = ("cond",)
    d_in: int = 8
    d_sae: int = 32
    pictures: int = 12
    labels: int = 3
    side: int = 16
    nouns: Sequence[str] = NOUNS
    model: str = "miniature"


def place_synthetic_study(outputs: Path, size: Size = Size(), *, name: str = "synthetic") -> Path:
    """Write the study below a directory of outputs; its own directory."""
    overrides = [f"model={size.model}", f"name={name}", f"paths.outputs={outputs}"]
    study = Study(compose("look", overrides))
    cells = [
        Cell(size.model, block, t, branch)
        for block in size.blocks
        for t in size.times
        for branch in size.branches
    ]
    _place_pictures(study, size, cells)
    for seed, cell in enumerate(cells):
        at_cell = study.at(cell)
        _place_sae(at_cell, size, seed)
        _place_dictionary(at_cell, size, np.random.default_rng(seed))
    return outputs / name


def picture_ids(size: Size) -> list[str]:
    """The ids of its pictures."""
    return [f"{number:06d}" for number in range(size.pictures)]


def _place_pictures(study: Study, size: Size, cells: Sequence[Cell]) -> None:
    """The collection: pictures of one colour, and random updates of the first cell."""
    streams = [
        Stream(
            block=cell.block, t=cell.t, conditioning=cell.conditioning, hookpoint="none",
            step_index=0, timestep=1, grid=(1, 2), d_in=size.d_in,
        )
        for cell in cells[:1]
    ]  # fmt: skip
    ids = picture_ids(size)
    with run_record(
        study.activations, stage="collect", config=study.config(), determines={}, parents={}, seed=0
    ):
        writer = ActivationWriter(study.activations, streams=streams, header={"model": size.model})
        for group, start in enumerate(range(0, len(ids), GROUP)):
            writer.write_group(group, _samples(ids[start : start + GROUP], size, streams))
        writer.finish()


def _samples(
    ids: Sequence[str], size: Size, streams: Sequence[Stream]
) -> Iterator[CollectedSample]:
    for image_id in ids:
        shade = int(image_id) % 256
        yield CollectedSample(
            image_id=image_id,
            prompt=f"picture {image_id} of a fish",
            seed=int(image_id),
            split="dictionary",
            updates={stream.folder: updates_of(image_id, size) for stream in streams},
            image=np.full((size.side, size.side, 3), (shade, 128, 255 - shade), np.uint8),
        )


def updates_of(image_id: str, size: Size) -> np.ndarray:
    """The updates of a picture at the first cell, [2, d_in]."""
    drawn = np.random.default_rng(int(image_id)).standard_normal((2, size.d_in))
    return drawn.astype(np.float16)


def _place_sae(study: Study, size: Size, seed: int) -> None:
    sae = SparseAutoencoder(size.d_in, size.d_sae, TopK(4), input_scaling="none", seed=seed)
    common = F.normalize(torch.ones(size.d_in), dim=0)
    with torch.no_grad():
        sae.W_dec[0] = F.normalize(sae.W_dec[0] * 0.1 + common, dim=0)
    place = {"cell": study.cell.coordinates()}
    with run_record(
        study.sae, stage="train", config=study.config(), determines=place, parents={}, seed=0
    ):
        save_sae(study.sae, sae, place)


def _place_dictionary(study: Study, size: Size, random: np.random.Generator) -> None:
    table = _entries(size, random)
    latents = _latents(size, random)
    vectors = label_vectors(size.nouns)
    known = sorted(set(table["label"]))
    rows = torch.tensor([size.nouns.index(label) for label in known])
    owners = sorted(set(table["latent"].tolist()))
    place = {"cell": study.cell.coordinates()}
    with run_record(
        study.concepts, stage="label", config=study.config(), determines=place, parents={}, seed=0
    ):
        ConceptDictionary(
            table=table,
            latents=latents,
            labels=known,
            label_embeddings=vectors[rows],
            embedded_latents=torch.tensor(owners),
            embeddings=torch.zeros(len(owners), vectors.shape[1]),
            facts={
                "d_sae": size.d_sae, "grid": [4, 4], "embedding": "synthetic",
                "n_pictures": size.pictures, "n_annotated": size.pictures,
            },
        ).save(study.concepts)  # fmt: skip
        shown = owners[:4]
        images = [list(latents["top_images"][latent])[:8] for latent in shown]
        maps = [torch.rand(len(ids), 4, 4) for ids in images]
        Gallery(latents=shown, image_ids=images, maps=maps).save(study.concepts)
    concepts = study.evaluation("cohesion") / "concepts.parquet"
    concepts.parent.mkdir(parents=True)
    cohesion = {"latent": owners, "cohesion": random.random(len(owners))}
    pd.DataFrame(cohesion).to_parquet(concepts, index=False)


def _entries(size: Size, random: np.random.Generator) -> pd.DataFrame:
    """A table of labels, sorted by latent and then by falling count."""
    labelled = np.flatnonzero(np.arange(size.d_sae) % 3)
    latents = np.repeat(labelled, size.labels)
    nouns = np.argsort(random.random((len(labelled), len(size.nouns))))[:, : size.labels].ravel()
    table = pd.DataFrame(
        {
            "latent": latents,
            "label": np.array(size.nouns, dtype=object)[nouns],
            "count": random.integers(1, 20, len(latents)),
            "mean_iou": 0.5 + random.random(len(latents)) / 2,
        }
    )
    table["share"] = table["count"] / table.groupby("latent")["count"].transform("sum")
    ordered = table.sort_values(["latent", "count", "label"], ascending=[True, False, True])
    return ordered.reset_index(drop=True)


def _latents(size: Size, random: np.random.Generator) -> pd.DataFrame:
    """The latents' statistics; the last latent is dead."""
    active = random.integers(1, size.pictures + 1, size.d_sae)
    active[-1] = 0
    ids, n_top = np.array(picture_ids(size), dtype=object), min(20, size.pictures)
    tops = random.integers(0, size.pictures, (size.d_sae, n_top))
    alive = active > 0
    return pd.DataFrame(
        {
            "latent": range(size.d_sae),
            "firing_frequency": active / size.pictures * 0.1,
            "pictures_active": active,
            "mean_activation": active * 0.01,
            "purity": 1.0,
            "top_images": [list(ids[row]) if a else [] for row, a in zip(tops, alive, strict=True)],
            "top_values": [[1.0 / (n + 1) for n in range(n_top)] if a else [] for a in alive],
        }
    )


def label_vectors(nouns: Sequence[str]) -> Tensor:
    """Unit vectors of the nouns: those of fish and cat are near the first axis."""
    generator = torch.Generator().manual_seed(0)
    vectors = F.normalize(torch.randn(len(nouns), 16, generator=generator), dim=1) * 0.3
    for noun, pull in (("fish", 2.0), ("cat", 1.0)):
        if noun in nouns:
            vectors[list(nouns).index(noun), 0] += pull
    return F.normalize(vectors, dim=1)


class SyntheticWords:
    """The word embedding of a synthetic study: it knows "animal" alone, which is the first axis."""

    name = "synthetic"

    def known(self, word: str) -> bool:
        return word == "animal"

    def embed(self, words: Sequence[str]) -> Tensor:
        return torch.eye(16)[:1].repeat(len(words), 1)
