"""What a study will take, from its configuration alone: pictures, vectors, bytes, training
steps.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from diffusae.activations.epoch_size import pictures_needed
from diffusae.activations.schema import BESIDE_UPDATES, Cell, Stream
from diffusae.activations.settings import ActivationSettings, HeldOut
from diffusae.activations.size import tar_size
from diffusae.activations.stored_numbers import stored_numbers
from diffusae.activations.subsampling import Subsampling
from diffusae.backbone.describe import Description
from diffusae.backbone.settings import ModelSettings
from diffusae.planning.sizes import Group, code_bytes, groups_in, stream_bytes
from diffusae.study.seeds import saes_at
from diffusae.study.settings import GridSettings
from diffusae.study.streams import (
    SEEN_SPLITS,
    TRAINING_SPLIT,
    stored_in,
    streams_of,
    subsampling_of,
    thinned,
)
from diffusae.study.study import Study

RAW_PIXEL = 3
"""Bytes of a pixel that is not compressed."""


@dataclass(frozen=True, kw_only=True)
class StreamEstimate:
    """One stream of the collection.

    Attributes:
        trained: False for the cross-attention, which gets no SAE.
        vectors: split -> vectors.
        bytes: of its shards, at most. code_bytes: of its codes by all SAEs of its cell, at most.
        expected_bytes: of both, with estimates of a caption's tokens and of what compression saves.
        bytes_per_number: of an update.
        steps: of the training of one SAE.
        seeds: SAEs that differ in their seed alone, for each k.
    """

    stream: Stream
    trained: bool
    vectors: dict[str, int]
    bytes: int
    code_bytes: int
    expected_bytes: int
    bytes_per_number: int
    steps: int
    seeds: int = 1

    @property
    def training_vectors(self) -> int:
        """Vectors that an SAE trains on in one epoch."""
        return self.vectors.get(TRAINING_SPLIT, 0)

    @property
    def vectors_to_encode(self) -> int:
        """Vectors of the dictionary, tune and test pictures, of which codes are read."""
        return sum(self.vectors.get(split, 0) for split in SEEN_SPLITS) if self.trained else 0

    @property
    def training_numbers_bytes(self) -> int:
        """Bytes of the training vectors' numbers alone, as papers count: no captions, no
        headers.
        """
        return self.bytes_per_number * self.training_vectors * self.stream.d_in


@dataclass(frozen=True, kw_only=True)
class StudyEstimate:
    """A study in numbers.

    Attributes:
        pictures: split -> pictures. decoded: those among them that are decoded and kept as PNG.
        made_in_training: training pictures that `train_online` makes, epoch after epoch; None where
            they are stored.
        held_out: what is stored of the dictionary, tune and test pictures.
        denoiser_passes: single pictures through the denoiser; guidance takes two a step. A given
            picture takes one a time t, a text none.
        streams: every stream of the collection.
        image_bytes: of the pictures' shards, at most: as if PNG compressed nothing.
        pixels: of all these pictures.
        batch_size: of the training of one SAE.
        saes_a_cell: how many are trained at each cell, one for each k.
    """

    pictures: dict[str, int]
    decoded: int
    made_in_training: int | None
    held_out: HeldOut
    denoiser_passes: int
    streams: tuple[StreamEstimate, ...]
    image_bytes: int
    pixels: int
    batch_size: int
    saes_a_cell: int

    @property
    def trained(self) -> list[StreamEstimate]:
        """The streams that get an SAE: the cells of the grid."""
        return [stream for stream in self.streams if stream.trained]

    @property
    def stream_bytes(self) -> int:
        """Bytes of all shards of updates."""
        return sum(stream.bytes for stream in self.streams)

    @property
    def code_bytes(self) -> int:
        """Bytes of all shards of codes."""
        return sum(stream.code_bytes for stream in self.streams)

    @property
    def bytes_to_collect(self) -> int:
        """Bytes of all that is collected, at most."""
        return self.stream_bytes + self.code_bytes + self.image_bytes

    def expected_bytes(self, png_bytes_per_pixel: float | None) -> int:
        """Bytes of all that is collected, with so many bytes of PNG a pixel; None: as if PNG
        compressed nothing.
        """
        saved = 0.0 if png_bytes_per_pixel is None else RAW_PIXEL - png_bytes_per_pixel
        streams = sum(stream.expected_bytes for stream in self.streams)
        return streams + self.image_bytes - round(saved * self.pixels)

    @property
    def vectors_to_encode(self) -> int:
        """Vectors that all SAEs encode once, so that labels and metrics can be made."""
        return self.saes_a_cell * sum(one.seeds * one.vectors_to_encode for one in self.streams)

    @property
    def bytes_with_codes(self) -> int:
        """Those among them of the collection that holds codes: also pictures and attention. 0 where
        there is none.
        """
        if self.held_out == "updates":
            return 0
        attention = sum(stream.bytes for stream in self.streams if not stream.trained)
        return self.code_bytes + attention + self.image_bytes

    @property
    def collected(self) -> int:
        """Pictures that are made before training, and stored."""
        unstored = 0 if self.made_in_training is None else self.pictures.get(TRAINING_SPLIT, 0)
        return sum(self.pictures.values()) - unstored

    @property
    def made(self) -> int:
        """All pictures that are made."""
        return self.collected + (self.made_in_training or 0)

    @property
    def saes(self) -> int:
        """All SAEs that are trained."""
        return self.saes_a_cell * sum(stream.seeds for stream in self.trained)

    def vectors_seen(self, stream: StreamEstimate) -> int:
        """Vectors that the training of one SAE sees, epoch after epoch."""
        return stream.steps * self.batch_size

    def epochs(self, stream: StreamEstimate) -> float | None:
        """How often the training of one SAE sees a vector; None: there are none."""
        vectors = stream.training_vectors if stream.trained else 0
        return self.vectors_seen(stream) / vectors if vectors else None

    @property
    def most_epochs(self) -> float | None:
        """Of all SAEs; None: none is trained."""
        known = [epochs for one in self.streams if (epochs := self.epochs(one)) is not None]
        return max(known, default=None)


def estimate(
    study: Study,
    description: Description,
    *,
    positions_per_image: int | Literal["configured"] | None = "configured",
    store_training: bool | Literal["configured"] = "configured",
    held_out: HeldOut | Literal["configured"] = "configured",
    groups: Sequence[Group] | None = None,
) -> StudyEstimate:
    """Count a study through. Nothing is loaded: shapes come from `description`, captions from the
    prompts.

    Args:
        positions_per_image: stored of a training picture, in the place of the study's own number;
            None: the whole grid.
        store_training: whether training pictures are stored, in the place of the study's choice.
        held_out: what is stored of the dictionary, tune and test pictures, likewise.
        groups: `groups_in(study)`, where they are counted already.

    Raises:
        UserError: the limits of `activations` leave a picture without a position.
    """
    model, grid = ModelSettings.of(study.cfg), GridSettings.of(study.cfg)
    activations = ActivationSettings.of(study.cfg)
    held_out = activations.held_out if held_out == "configured" else held_out
    stores = activations.store_training if store_training == "configured" else store_training
    groups = groups_in(study) if groups is None else groups
    subsampling = (
        subsampling_of(study)
        if positions_per_image == "configured"
        else thinned(positions_per_image, seed=study.seed)
    )
    pictures = dict(Counter(prompt.split for prompt in study.prompts))
    unstored = 0 if stores else pictures.get(TRAINING_SPLIT, 0)
    collected = len(study.prompts) - unstored
    streams = _stream_estimates(
        study, description, groups, subsampling, stores=stores, held_out=held_out
    )
    made = None if stores else _made_in_training(streams, unstored, activations)
    branches = study.branches_of(study.layout or description.layout)
    passes = {"generation": model.steps * len(branches), "pictures": len(grid.timesteps)}
    text = study.kind == "text"
    seen = [] if text else [group.texts for group in groups if group.split in SEEN_SPLITS]
    pixels = model.height * model.width
    png = pixels * RAW_PIXEL + 1024
    return StudyEstimate(
        pictures=pictures,
        decoded=sum(map(len, seen)),
        made_in_training=made,
        held_out=held_out,
        denoiser_passes=(collected + (made or 0)) * passes.get(study.kind, 0),
        streams=tuple(streams),
        image_bytes=sum(
            tar_size(np.concatenate([texts, np.full(len(texts), png)])) for texts in seen
        ),
        pixels=sum(map(len, seen)) * pixels,
        batch_size=activations.batch_size,
        saes_a_cell=len(grid.k or [None]),
    )


def _stream_estimates(
    study: Study,
    description: Description,
    groups: Sequence[Group],
    subsampling: Subsampling | None,
    *,
    stores: bool,
    held_out: HeldOut,
) -> list[StreamEstimate]:
    bytes_per_number = stored_numbers(ActivationSettings.of(study.cfg).dtype).bytes
    # No scheduler is at hand; sizes do not depend on its timesteps.
    streams = streams_of(study, description, lambda t: t, description.tokens)
    sizes: dict[tuple[int, int, str, bool], tuple[int, int]] = {}
    estimates, blocks = [], GridSettings.of(study.cfg).blocks
    for stream, steps in zip(streams, _steps(study, streams), strict=True):
        recorded = [group for group in groups if stored_in(stream, group.split, held_out)]
        trained = stream.block in blocks
        coded = [g for g in groups if trained and held_out == "codes" and g.split in SEEN_SPLITS]
        stored = [
            group
            for group in recorded
            if (stores or group.split != TRAINING_SPLIT) and group not in coded
        ]
        cell = Cell(study.cfg.model.name, stream.block, stream.t, stream.conditioning)
        beside = stream.block if stream.block in BESIDE_UPDATES else ""
        shape = (stream.positions, stream.d_in, beside, stream.of_tokens)
        if shape not in sizes:
            most, expected = (
                stream_bytes(stream, stored, subsampling, bytes_per_number, expected=expected)
                for expected in (False, True)
            )
            sizes[shape] = most, expected
        vectors = {group.split: 0 for group in groups}
        for group in recorded:
            vectors[group.split] += int(group.kept(stream, subsampling).sum())
        estimates.append(
            StreamEstimate(
                stream=stream,
                trained=trained,
                vectors=vectors,
                bytes=sizes[shape][0],
                code_bytes=code_bytes(study, stream.positions, coded),
                expected_bytes=sizes[shape][1]
                + code_bytes(study, stream.positions, coded, expected=True),
                bytes_per_number=bytes_per_number,
                steps=steps,
                seeds=saes_at(study, cell) if trained else 1,
            )
        )
    return estimates


def _made_in_training(
    streams: Sequence[StreamEstimate], images: int, settings: ActivationSettings
) -> int:
    """Training pictures that the SAEs of all streams need, epoch after epoch."""
    return max(
        (
            pictures_needed(
                stream.steps,
                images=images,
                positions=stream.training_vectors // images,
                batch_size=settings.batch_size,
                buffer_vectors=settings.buffer_vectors,
            )
            for stream in streams
            if stream.trained and stream.training_vectors
        ),
        default=0,
    )


def _steps(study: Study, streams: Sequence[Stream]) -> Iterator[int]:
    """The steps of the training at every stream's cell: a study may give blocks different ones."""
    cfg = copy.deepcopy(study.cfg)
    for stream in streams:
        cfg.block.name, cfg.timestep.t = stream.block, stream.t
        yield cfg.trainer.steps if stream.block in cfg.grid.blocks else 0
