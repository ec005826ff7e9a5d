"""The concept dictionary of one cell: the nouns that each latent stands for (Emergence, section 4).

A latent's map in a picture is scaled to [0, 1] and cut at 0.1. If its IoU with a label's mask is
above 0.5, the latent gains the label. A concept's embedding is the mean word vector of the labels
that the latent gained, each weighted by its count.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from diffusae.concepts.embeddings import WordEmbedding, embed_labels
from diffusae.concepts.maps import LabelOverlap, Mask, label_masks
from diffusae.concepts.settings import DictionarySettings
from diffusae.concepts.statistics import LatentStatistics
from diffusae.errors import UserError, together
from diffusae.files import atomic_path, atomic_write_json, verified
from diffusae.parsing import of_type, read_json, reading, typed
from diffusae.table_files import Kind, read_table
from diffusae.tensor_files import read_tensors

FORMAT_VERSION = 1

_PICTURES_AT_ONCE = 32
"""Whose codes and masks are on the device: 40 MB with five masks of 512 x 512 each."""

Picture = tuple[str, tuple[Tensor, Tensor], Mapping[str, Mask]]


@dataclass(frozen=True)
class ConceptDictionary:
    """The dictionary of one cell.

    Attributes:
        table: one row a (latent, label): `count` pictures in which the latent gained the label,
            `mean_iou` over those, `share` of the label in all that the latent gained (range (0, 1];
            1 = one noun only). Sorted by latent, then by falling count.
        latents: one row a latent of the SAE, see `LatentStatistics`, and `purity`: its largest
            `share`, NaN without labels.
        labels, label_embeddings: the labels that the word embedding knows; their unit vectors.
        embedded_latents, embeddings: the latents with such a label, ascending, and their concept
            embeddings: the count-weighted mean of the label embeddings. Not of unit norm: the
            longer, the more the labels agree.
        facts: d_sae, grid, counts of pictures, the word embedding's name and every setting.
    """

    table: pd.DataFrame
    latents: pd.DataFrame
    labels: list[str]
    label_embeddings: Float[Tensor, "labels d"]
    embedded_latents: Int[Tensor, " n"]
    embeddings: Float[Tensor, "n d"]
    facts: dict[str, Any]

    def labels_of(self, latent: int) -> dict[str, int]:
        """Label -> count of a latent, the most frequent first; empty without labels."""
        rows = self.table[self.table["latent"] == latent]
        return dict(zip(rows["label"].tolist(), rows["count"].tolist(), strict=True))

    def latents_of(self, label: str) -> list[int]:
        """Every latent that has the label (the paper's C_o), ascending; may be empty."""
        return self.table.loc[self.table["label"] == label, "latent"].tolist()

    def gained(self, labels: Collection[str] | None = None) -> int:
        """How often all latents together gained one of these labels; None: any label."""
        table: Any = self.table
        known = table if labels is None else table[table["label"].isin(list(labels))]
        return int(known["count"].sum())

    def save(self, directory: Path | str) -> None:
        """Write the two tables, embeddings.safetensors and, last, dictionary.json, atomically."""
        directory = Path(directory)
        for name, table in (("dictionary", self.table), ("latents", self.latents)):
            with atomic_path(directory / f"{name}.parquet") as temporary:
                table.to_parquet(temporary, engine="pyarrow", index=False)
        tensors = {
            "label_embeddings": self.label_embeddings,
            "embedded_latents": self.embedded_latents,
            "embeddings": self.embeddings,
        }
        with atomic_path(directory / "embeddings.safetensors") as temporary:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
        head = {"format_version": FORMAT_VERSION, "labels": self.labels, "facts": self.facts}
        atomic_write_json(directory / "dictionary.json", head)

    @classmethod
    def load(cls, directory: Path | str, *, top_pictures: bool = True) -> ConceptDictionary:
        """Read what `save` wrote.

        Args:
            top_pictures: False leaves out `top_images` and `top_values`, which take most of the
                time and of the memory.

        Raises:
            UserError: a file is missing, unreadable or of another format, or contradicts another.
        """
        directory = Path(directory)
        remedy = f"remove {directory} and label this cell again"
        try:
            path = directory / "dictionary.json"
            value = read_json(verified(path), remedy=remedy)
            with reading(path, remedy=remedy):
                head = typed(_Head, value)
                if head.format_version != FORMAT_VERSION:
                    raise UserError(
                        f"it has format {head.format_version}, expected {FORMAT_VERSION}"
                    )
            without = () if top_pictures else _TOP
            kinds: dict[str, Kind] = {
                name: kind for name, kind in _LATENT_COLUMNS.items() if name not in without
            }
            latents = read_table(
                verified(directory / "latents.parquet"), kinds, remedy=remedy, without=without
            )
            for column in _TOP if top_pictures else ():
                latents[column] = [list(row) for row in latents[column]]
            table = read_table(
                verified(directory / "dictionary.parquet"), _TABLE_COLUMNS, remedy=remedy
            )
            tensors = read_tensors(verified(directory / "embeddings.safetensors"), remedy=remedy)
        except FileNotFoundError as error:
            raise UserError(f"{error.filename} is missing; {remedy}") from None
        with reading(directory, remedy=remedy):
            dictionary = cls(
                table=table, latents=latents, labels=head.labels, facts=head.facts, **tensors
            )
            together(dictionary.contradictions())
        return dictionary

    def contradictions(self) -> Iterator[str]:
        """Counts, shapes and latents of the files that contradict each other, as sentences."""
        d_sae = of_type(self.facts.get("d_sae"), int, "d_sae")
        of_type(self.facts.get("grid"), tuple[int, int], "grid")
        latents = self.latents["latent"].tolist()
        if len(latents) != d_sae or latents != list(range(d_sae)):
            yield f"latents.parquet must have one row for each of the {d_sae} latents, in order"
        entries: Any = self.table  # in pandas' own types a column may be a table
        if not entries["latent"].between(0, d_sae - 1).all() or (entries["count"] < 1).any():
            yield f"dictionary.parquet must name latents from 0 to {d_sae - 1} and counts from 1"
        labels, which, means = self.label_embeddings, self.embedded_latents, self.embeddings
        fits = labels.ndim == means.ndim == 2 and which.ndim == 1
        if not fits or which.is_floating_point():
            yield "embeddings.safetensors must hold two tables of numbers and one list of latents"
        elif len(labels) != len(self.labels) or means.shape != (len(which), labels.shape[1]):
            yield (
                f"embeddings.safetensors has {list(labels.shape)} of labels and {list(means.shape)}"
                f" of concepts, for {len(self.labels)} labels and {len(which)} latents"
            )
        elif len(which) and not 0 <= int(which.min()) <= int(which.max()) < d_sae:
            yield f"embeddings.safetensors must name latents from 0 to {d_sae - 1}"
        elif not (torch.isfinite(labels).all() and torch.isfinite(means).all()):
            yield "embeddings.safetensors has values that are not finite"


@dataclass(frozen=True, kw_only=True)
class _Head:
    """The contents of dictionary.json."""

    format_version: int
    labels: list[str]
    facts: dict[str, Any]


_TABLE_COLUMNS: Mapping[str, Kind] = {
    "latent": "whole", "label": "text", "count": "whole", "mean_iou": "number", "share": "number",
}  # fmt: skip
_LATENT_COLUMNS: Mapping[str, Kind] = {
    "latent": "whole",
    "firing_frequency": "number",
    "mean_activation": "number",
    "purity": "number",
    "top_images": "texts",
    "top_values": "numbers",
}
_TOP = ("top_images", "top_values")


def build_dictionary(
    pictures: Iterable[Picture],
    settings: DictionarySettings,
    *,
    d_sae: int,
    grid: tuple[int, int],
    embedding: WordEmbedding,
    n_top: int = 20,
    device: torch.device | str = "cpu",
) -> ConceptDictionary:
    """Build the dictionary of one cell from held-out pictures, in one pass over them.

    Args:
        pictures: (image id, (values [P, k], indices [P, k]), masks: noun -> bool [H, W]), with one
            P and k. A picture without masks counts for the statistics of the latents, but not for
            labels.
        settings: how latents gain their labels.
        n_top: top pictures kept for each latent.
        device: where maps and masks are compared, some pictures at once. A GPU may round maps and
            sums in another way than a CPU.

    Raises:
        UserError: there are no pictures.
    """
    areas: dict[str, Any] = {
        "minimum_area": settings.minimum_area,
        "include_background": settings.include_background,
    }
    overlap = LabelOverlap(settings)
    statistics = LatentStatistics(d_sae, grid, n_top=n_top, device=device)
    gained: defaultdict[tuple[int, str], list[float]] = defaultdict(list)
    n_annotated = 0
    iterator = iter(pictures)
    while batch := list(islice(iterator, _PICTURES_AT_ONCE)):
        image_ids, codes, masks = zip(*batch, strict=True)
        values, indices = (torch.stack(part).to(device) for part in zip(*codes, strict=True))
        statistics.add(image_ids, values, indices)
        labels, stacks = zip(*(label_masks(one, **areas) for one in masks), strict=True)
        n_annotated += sum(map(bool, labels))
        numbers, latents, iou = overlap(values, indices, stacks, grid)
        rows, which = torch.nonzero(iou > settings.iou_threshold, as_tuple=True)
        found = (numbers[rows], latents[rows], which, iou[rows, which])
        for number, latent, label, value in zip(*(one.tolist() for one in found), strict=True):
            gained[latent, labels[number][label]].append(value)
    if statistics.n_pictures == 0:
        raise UserError(
            "there are no pictures to build a dictionary from; collect held-out pictures first"
        )
    table = _label_table(gained, min_count=settings.min_count)
    known, label_embeddings = embed_labels(embedding, sorted(set(table["label"])))
    embedded_latents, embeddings = _concept_embeddings(table, known, label_embeddings)
    facts = {
        "d_sae": d_sae,
        "grid": list(grid),
        "n_pictures": statistics.n_pictures,
        "n_annotated": n_annotated,
        "n_labelled_latents": len(set(table["latent"].tolist())),
        "labels_without_embedding": sorted(set(table["label"]) - set(known)),
        "embedding": embedding.name,
        "activation_threshold": settings.activation_threshold,
        "map_scaling": settings.scaling,
        "map_resize": settings.resize,
        "iou_threshold": settings.iou_threshold,
        "min_count": settings.min_count,
        **areas,
    }
    latents_table = statistics.table()
    latents_table["purity"] = _purity(table, d_sae)
    return ConceptDictionary(
        table=table,
        latents=latents_table,
        labels=known,
        label_embeddings=label_embeddings,
        embedded_latents=embedded_latents,
        embeddings=embeddings,
        facts=facts,
    )


def _label_table(gained: Mapping[tuple[int, str], list[float]], *, min_count: int) -> pd.DataFrame:
    kept = {pair: ious for pair, ious in gained.items() if len(ious) >= min_count}
    totals: Counter[int] = Counter()
    for (latent, _), ious in kept.items():
        totals[latent] += len(ious)
    pairs = sorted(kept, key=lambda pair: (pair[0], -len(kept[pair]), pair[1]))
    return pd.DataFrame(
        {
            "latent": np.array([latent for latent, _ in pairs], dtype=np.int64),
            "label": pd.Series([label for _, label in pairs], dtype="str"),
            "count": np.array([len(kept[pair]) for pair in pairs], dtype=np.int64),
            "mean_iou": np.array([np.mean(kept[pair]) for pair in pairs], dtype=np.float64),
            "share": np.array([len(kept[pair]) / totals[pair[0]] for pair in pairs], np.float64),
        }
    )


def _purity(table: pd.DataFrame, d_sae: int) -> NDArray[np.float64]:
    purity = np.full(d_sae, np.nan)
    # fmax ignores NaN: the first share of a latent replaces it.
    np.fmax.at(purity, table["latent"].to_numpy(), table["share"].to_numpy())
    return purity


def _concept_embeddings(
    table: pd.DataFrame, known: list[str], label_embeddings: Float[Tensor, "labels d"]
) -> tuple[Int[Tensor, " n"], Float[Tensor, "n d"]]:
    column = {label: index for index, label in enumerate(known)}
    rows = zip(*(table[name].tolist() for name in ("latent", "label", "count")), strict=True)
    entries = [(latent, column[label], count) for latent, label, count in rows if label in column]
    latents = sorted({latent for latent, _, _ in entries})
    row_of = {latent: row for row, latent in enumerate(latents)}
    weights = torch.zeros(len(latents), len(known))
    for latent, label, count in entries:
        weights[row_of[latent], label] = count
    means = weights @ label_embeddings / weights.sum(dim=1, keepdim=True)
    return torch.tensor(latents, dtype=torch.long), means
