"""Tables of the latents that stand for a word, over the dictionaries of many cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from diffusae.concepts.dictionary import ConceptDictionary
from diffusae.concepts.embeddings import WordEmbedding, embed_labels
from diffusae.concepts.words import Vocabulary
from diffusae.errors import UserError, unknown

COLUMNS = ("cell", "latent", "label", "count", "mean_iou", "share", "similarity")
NEAREST = 3
"""Labels that stand in for a word which is no label."""


@dataclass(frozen=True)
class LabelVectors:
    """The labels of a cell that its word embedding knows.

    Attributes:
        cell: the cell's name.
        embedding: the embedding's name; None: the dictionary does not say it.
        labels, vectors: the labels and their unit vectors.
    """

    cell: str
    embedding: str | None
    labels: list[str]
    vectors: Float[Tensor, "labels d"]

    @classmethod
    def of(cls, cell: str, dictionary: ConceptDictionary) -> LabelVectors:
        """Those of a dictionary."""
        name = dictionary.facts.get("embedding")
        return cls(cell, name, dictionary.labels, dictionary.label_embeddings)


@dataclass(frozen=True)
class ConceptTable:
    """Latents with their labels.

    Attributes:
        rows: one row a (cell, latent, label) with the columns `COLUMNS`: `count` pictures of the
            split dictionary in which the latent gained the label, `mean_iou` over those, `share`
            of the label in all that the latent gained, and `similarity`, the cosine between the
            label and the word: 1 for the word's own label, NaN without a word.
        word: what was asked for; None: everything.
        labels: the labels that were chosen, the nearest first; all labels without a word.
    """

    rows: pd.DataFrame
    word: str | None
    labels: list[str]

    @property
    def exact(self) -> bool:
        """Whether the word is a label itself, rather than near to some."""
        return self.word is None or bool((self.rows["similarity"] == 1).any())

    def table(self) -> pd.DataFrame:
        """The rows; frequent and clear entries first (count x share), nearer labels before."""
        return self.rows

    def _repr_html_(self) -> str:
        return self.rows.to_html(index=False)


def concept_table(
    dictionaries: Mapping[str, ConceptDictionary],
    word: str | None,
    embedding: Callable[[], WordEmbedding],
) -> ConceptTable:
    """The labelled latents of these cells, or those of a word.

    A plural means its noun. A word that is a label nowhere is answered with the latents of the
    labels nearest to it, by the embeddings that the dictionaries hold.

    Args:
        dictionaries: {cell's name: its dictionary}.
        word: a noun; None: every labelled latent.
        embedding: what the dictionaries were labelled with; asked only for a word that is no label.

    Raises:
        UserError: the word has no embedding, or the dictionaries were made with another one.
    """
    tables = [
        dictionary.table.assign(cell=name, similarity=float("nan"))
        for name, dictionary in dictionaries.items()
    ]
    rows: Any = pd.concat(tables) if tables else pd.DataFrame(columns=list(COLUMNS))
    labels = sorted(set(rows["label"]))
    if word is not None:
        vectors = [LabelVectors.of(name, one) for name, one in dictionaries.items()]
        similar = similar_labels(vectors, labels, word, embedding)
        rows = rows[rows["label"].isin(list(similar))]
        rows = rows.assign(similarity=rows["label"].map(similar))
        labels = list(similar)
    rows = rows.assign(telling=-rows["count"] * rows["share"], far=-rows["similarity"])
    rows = rows.sort_values(["far", "telling", "cell", "latent", "label"], kind="stable")
    return ConceptTable(rows[list(COLUMNS)].reset_index(drop=True), word, labels)


def refuse_another_embedding(cell: str, made_with: str | None, words: WordEmbedding) -> None:
    """Vectors of two embeddings cannot be compared.

    Args:
        cell: the name of a labelled cell.
        made_with: the name of the embedding that its dictionary was made with.
        words: the embedding that is configured.

    Raises:
        UserError: they are not the same.
    """
    if made_with != words.name:
        raise UserError(
            f"{cell} was labelled with the embedding {made_with}, and {words.name} is configured;"
            " choose embedding=... as the study did"
        )


def similar_labels(
    vectors: Sequence[LabelVectors],
    labels: Sequence[str],
    word: str,
    embedding: Callable[[], WordEmbedding],
) -> dict[str, float]:
    """{label: cosine to the word}: the word's own label, else the nearest ones.

    Args:
        vectors: the labels' vectors.
        labels: all labels, also those without a vector.
        word, embedding: see `concept_table`.

    Raises:
        UserError: as `concept_table`.
    """
    if labels and (label := Vocabulary(labels).label_of(word)) is not None:
        return {label: 1.0}
    words = embedding()
    known, vector = embed_labels(words, [word])
    if not known:
        raise unknown(f"concept (and {words.name} has no vector for it)", word, labels)
    cosines: dict[str, float] = {}
    for one in vectors:
        refuse_another_embedding(one.cell, one.embedding, words)
        if one.labels:
            near = one.vectors @ vector[0]
            cosines.update(zip(one.labels, near.tolist(), strict=True))
    nearest = sorted(cosines, key=lambda label: (-cosines[label], label))[:NEAREST]
    return {label: round(cosines[label], 4) for label in nearest}
