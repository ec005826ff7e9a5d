"""What an audit compares at one cell: the trained autoencoder, a dictionary whose latents are the
factors themselves, the same codes beside another picture's labels, and random weights.

All of them are subjects: codes and annotations from which every figure can be computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffusae.concepts.annotations import Annotations
from diffusae.evaluation.factors import Labels, Seen, local_labels, whole_labels
from diffusae.evaluation.recovery import SparseCodes, pooled, sparse_codes
from diffusae.labelling.codes import CodedSplit, CodeSource, code_source, coded_split
from diffusae.metrics.composition import nouns_in
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
from diffusae.sae.storage import load_sae
from diffusae.study.study import Study, build

SPLITS = ("dictionary", "tune", "test")
"""The first two choose latents and thresholds; the last gives the figures."""


@dataclass(frozen=True)
class Names:
    """What an annotator can see: nouns, those that are parts of the ground, and factors."""

    labels: tuple[str, ...]
    stuff: tuple[str, ...]
    factors: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, annotator: Any) -> Names:
        """`stuff` is empty where the annotator does not tell objects from ground."""
        stuff = tuple(getattr(annotator, "stuff", ()))
        return cls(tuple(annotator.labels), stuff, dict(annotator.factors))

    @property
    def nouns(self) -> list[str]:
        """Of objects."""
        return [label for label in self.labels if label not in self.stuff]


@dataclass(frozen=True, eq=False)
class Pictures:
    """The pictures of a split as they were annotated, and the nouns that their captions name."""

    image_ids: list[str]
    seen: list[Seen]
    named: list[list[str]]

    def permuted(self, seed: int) -> Pictures:
        """Every picture with what was seen in another one; a single picture keeps its own."""
        order = np.random.default_rng(seed).permutation(len(self.seen))
        other = {int(a): int(b) for a, b in zip(order, np.roll(order, 1), strict=True)}
        rows = [other[row] for row in range(len(order))]
        return replace(self, seen=[self.seen[i] for i in rows], named=[self.named[i] for i in rows])


@dataclass(frozen=True, eq=False)
class Subject:
    """Codes and annotations of a cell, by split.

    Attributes:
        codes: values and indices [n, P, k] of each split; index of a padded entry: any, value 0.
        directions: of its latents, where it has any.
        rebuilt: the test pictures' updates and their reconstructions; None: not stored.
    """

    d_sae: int
    grid: tuple[int, int]
    names: Names
    codes: Mapping[str, tuple[Float[Tensor, "n P k"], Int[Tensor, "n P k"]]]
    pictures: Mapping[str, Pictures]
    directions: Float[Tensor, "d_sae d_in"] | None = None
    rebuilt: tuple[Float[Tensor, "n P d_in"], Float[Tensor, "n P d_in"]] | None = None

    @cached_property
    def local(self) -> dict[str, Labels]:
        """What holds at every position, by split."""
        seen = [one for of_split in self.pictures.values() for one in of_split.seen]
        colours = sorted({colour for one in seen for colour in one.colours.values()})
        return {
            split: local_labels(
                pictures.seen,
                self.grid,
                nouns=self.names.nouns,
                stuff=self.names.stuff,
                colours=colours,
            )
            for split, pictures in self.pictures.items()
        }

    @cached_property
    def whole(self) -> dict[str, Labels]:
        """What holds for every picture, by split."""
        return {
            split: whole_labels(pictures.seen, self.names.factors)
            for split, pictures in self.pictures.items()
        }

    @cached_property
    def at_positions(self) -> dict[str, SparseCodes]:
        """The codes at every position, by split."""
        return {
            split: sparse_codes(values.numpy(), indices.numpy(), self.d_sae)
            for split, (values, indices) in self.codes.items()
        }

    @cached_property
    def of_pictures(self) -> dict[str, SparseCodes]:
        """The mean of the codes over each picture, by split."""
        positions = self.grid[0] * self.grid[1]
        return {split: pooled(codes, positions) for split, codes in self.at_positions.items()}

    def permuted(self, seed: int) -> Subject:
        """The same codes and updates, each picture beside another one's labels; what is rebuilt of
        each picture beside another one's updates.
        """
        rebuilt = None
        if self.rebuilt is not None:
            rebuilt = (self.rebuilt[0], self.rebuilt[1].roll(1, dims=0))
        pictures = {split: one.permuted(seed) for split, one in self.pictures.items()}
        return replace(self, pictures=pictures, rebuilt=rebuilt)

    def reordered(self, seed: int) -> Subject:
        """The same latents in another order: the oracle of stability."""
        order = torch.randperm(self.d_sae, generator=torch.Generator().manual_seed(seed))
        place = order.argsort()
        codes = {split: (v, place[i.long()]) for split, (v, i) in self.codes.items()}
        directions = None if self.directions is None else self.directions[order]
        return replace(self, codes=codes, directions=directions)

    def oracle(self, factors: Sequence[str] | None = None) -> Subject:
        """A dictionary with one latent for each value of these factors (None: of all), which is 1
        where the value holds and 0 elsewhere. It rebuilds the updates exactly.
        """
        positions = self.grid[0] * self.grid[1]
        labels = {}
        for split, local in self.local.items():
            whole = self.whole[split]
            spread = Labels(whole.columns, whole.holds.repeat(positions, axis=1))
            both = local.beside(spread)
            kept = [
                i for i, (name, _) in enumerate(both.columns) if factors is None or name in factors
            ]
            labels[split] = both.only(kept)
        k = max([1, *(int(one.holds.sum(axis=2).max(initial=0)) for one in labels.values())])
        codes = {split: _largest(one.holds, k) for split, one in labels.items()}
        d_sae = len(next(iter(labels.values())).columns)
        rebuilt = None if self.rebuilt is None else (self.rebuilt[0], self.rebuilt[0])
        return replace(self, d_sae=d_sae, codes=codes, directions=None, rebuilt=rebuilt)


def _largest(holds: np.ndarray, k: int) -> tuple[Tensor, Tensor]:
    values = torch.from_numpy(holds).float()
    if values.shape[2] < k:
        values = torch.nn.functional.pad(values, (0, k - values.shape[2]))
    found = values.topk(k, dim=2)
    return found.values, found.indices


@dataclass(frozen=True, eq=False)
class Subjects:
    """All subjects of a cell; those without data are left out.

    Attributes:
        trained: the study's autoencoder.
        random: random weights of the same shape and as many active latents; None where only codes
            are stored.
        reseeded: autoencoders of other seeds, by their tags.
        updates: of every split; None: not stored.
    """

    trained: Subject
    random: Subject | None
    reseeded: Mapping[str, Subject]
    updates: Mapping[str, Float[np.ndarray, "n P d_in"]] | None


def subjects_of(study: Study, other_tags: Sequence[str]) -> Subjects:
    """Read the cell's codes, updates and annotations."""
    sae, _ = load_sae(study.sae)
    source = code_source(study, sae)
    splits = {split: coded_split(study, source, split, keep_updates=True) for split in SPLITS}
    names = Names.of(build(study.cfg.annotator, "annotator"))
    pictures = _annotated(study, splits, names)
    trained = _subject(sae, splits, source, names, pictures)
    if any(split.updates is None for split in splits.values()):
        return Subjects(trained, None, {}, None)
    updates = {
        split: one.updates.numpy() for split, one in splits.items() if one.updates is not None
    }

    def encoded(other: SparseAutoencoder) -> Subject:
        other_source = code_source(study, other)
        coded = {split: coded_split(study, other_source, split) for split in SPLITS}
        with_updates = {
            split: replace(one, updates=splits[split].updates) for split, one in coded.items()
        }
        return _subject(other, with_updates, other_source, names, pictures)

    reseeded = {tag: encoded(load_sae(sae_of(study, tag))[0]) for tag in other_tags}
    return Subjects(trained, encoded(random_sae(sae, splits, study.seed)), reseeded, updates)


def sae_of(study: Study, tag: str) -> Any:
    """Where the cell's autoencoder of another tag is."""
    return study.directory / "sae" / f"{study.cell.key}-{tag}"


def random_sae(
    sae: SparseAutoencoder, splits: Mapping[str, CodedSplit], seed: int
) -> SparseAutoencoder:
    """Random weights of the same shape, with as many active latents as the trained ones on average,
    scaled to the dictionary's updates.
    """
    active = splits["dictionary"].values > 0
    k = max(1, round(float(active.sum(dim=2).float().mean())))
    drawn = SparseAutoencoder(sae.d_in, sae.d_sae, TopK(k), seed=seed)
    updates = splits["dictionary"].updates
    assert updates is not None
    drawn.initialise(updates.flatten(0, 1))
    return drawn


def _subject(
    sae: SparseAutoencoder,
    splits: Mapping[str, CodedSplit],
    source: CodeSource,
    names: Names,
    pictures: Mapping[str, Pictures],
) -> Subject:
    test = splits["test"].updates
    rebuilt = None
    if test is not None:
        with torch.no_grad():
            rebuilt = (test, torch.stack([sae(one) for one in test]))
    return Subject(
        d_sae=sae.d_sae,
        grid=source.grid,
        names=names,
        codes={split: (one.values.detach(), one.indices) for split, one in splits.items()},
        pictures=pictures,
        directions=sae.directions.detach(),
        rebuilt=rebuilt,
    )


def _annotated(study: Study, splits: Mapping[str, CodedSplit], names: Names) -> dict[str, Pictures]:
    annotations = Annotations.load(study.annotations)
    colours, factors = annotations.colours(), annotations.factors()
    return {
        split: Pictures(
            one.image_ids,
            [Seen(annotations.masks[i], colours[i], factors[i]) for i in one.image_ids],
            [nouns_in(text, names.labels) for text in one.prompts],
        )
        for split, one in splits.items()
    }
