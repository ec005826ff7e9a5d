"""Purity of latents against true class labels (Revelio): do a latent's top pictures share a class?

A latent's top pictures are the `n_top` labelled pictures with the highest spatial means of its map
(arXiv 2411.16725). Two figures a task, lower is purer for both:

- `label_entropy_<task>`: entropy of their class labels in bits, range [0, log2(min(classes,
  n_top))];
- `sigma_label_<task>`: the paper's: standard deviation of their class numbers (divided by n_top:
  open in the paper), range [0, (classes - 1) / 2]. It depends on the order in which classes are
  numbered. `details.other_orders` has the middle 95 % over random orders.

Both are means over the judged latents: of those that are active in at least `n_top` labelled
pictures, the `n_latents` with the highest mean activation (the paper: "top 1000 latents by
activation"). All have equally many top pictures, so that none seems pure because it has few.
Intervals: bootstrap over latents.

Baselines: `random_pictures`, as many pictures drawn at random for every latent; `shuffled_labels`,
the latents' own top pictures with the labels shuffled over pictures, so that latents still share
top pictures. Empty case: a task without labels, or no latent to judge, is no data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Unpack

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from diffusae.evaluation.label_entropy import entropy_bits
from diffusae.evaluation.result import (
    NO_DATA,
    Estimate,
    Resampling,
    Result,
    bootstrap_mean,
    percentile_interval,
)
from diffusae.settings import Settings, Within

VERSION = 1
ENTROPY, SIGMA = "label_entropy", "sigma_label"


@dataclass(frozen=True, kw_only=True)
class PurityJudging(Settings, part="evaluation"):
    """How latents are judged."""

    n_top: Annotated[int, Within(2, 10**7)]
    """Pictures: those with the highest spatial means are a latent's top pictures."""
    n_latents: Annotated[int, Within(1, 10**7)]
    """Judged at the most, by mean activation."""
    n_draws: Annotated[int, Within(1, 10**7)]
    """Of random pictures, shuffled labels and other orders of the classes, for the baselines."""


@dataclass(frozen=True)
class Labels:
    """The labels of all pictures in one task, [n]: indices of `names`; -1: no label."""

    classes: Int[np.ndarray, " n"]
    names: Sequence[str]

    @property
    def pictures(self) -> Int[np.ndarray, " labelled"]:
        """The indices of the labelled pictures."""
        return np.flatnonzero(self.classes >= 0)


@dataclass(frozen=True)
class TopPictures:
    """Judged latents and their top pictures, [latents, n_top]; both the strongest first."""

    latents: Int[np.ndarray, " latents"]
    pictures: Int[np.ndarray, "latents n_top"]


def top_pictures(
    strengths: Float[np.ndarray, "n d_sae"], pictures: Int[np.ndarray, " m"], judging: PurityJudging
) -> TopPictures:
    """The top pictures, among `pictures`, of the judged latents; if equal, the earlier first."""
    among = strengths[pictures]
    judged = np.flatnonzero((among > 0).sum(axis=0) >= judging.n_top)
    by_strength = np.argsort(-among[:, judged].sum(axis=0), kind="stable")
    strongest = judged[by_strength][: judging.n_latents]
    if not len(strongest):
        return TopPictures(strongest, np.zeros((0, judging.n_top), int))
    order = np.argsort(-among[:, strongest], axis=0, kind="stable")[: judging.n_top].T
    return TopPictures(strongest, pictures[order])


def class_counts(
    classes: Int[np.ndarray, "... n_top"], n_classes: int
) -> Int[np.ndarray, "... classes"]:
    """The number of pictures, along the last axis, of each class."""
    return np.stack([(classes == number).sum(axis=-1) for number in range(n_classes)], axis=-1)


def label_entropies(counts: Int[np.ndarray, "... classes"]) -> NDArray[np.float64]:
    """Entropy in bits, from counts of classes."""
    return entropy_bits(counts)


def sigma_label(counts: Int[np.ndarray, "... classes"]) -> NDArray[np.float64]:
    """Standard deviation of class numbers, from counts of classes."""
    numbers, shares = np.arange(counts.shape[-1]), counts / counts.sum(axis=-1, keepdims=True)
    return np.sqrt(((shares @ numbers**2) - (shares @ numbers) ** 2).clip(min=0))


def purity_rows(
    strengths: Float[np.ndarray, "n d_sae"],
    labels: Mapping[str, Labels],
    *,
    judging: PurityJudging,
    cell: Mapping[str, Any],
    **resampling: Unpack[Resampling],
) -> list[Result]:
    """Two rows a task. `strengths`: the spatial mean of each latent's map in every picture."""
    mean, seed = partial(bootstrap_mean, **resampling), resampling.get("seed", 0)
    rows = []
    for task, of_task in labels.items():
        top = top_pictures(strengths, of_task.pictures, judging)
        own = class_counts(of_task.classes[top.pictures], len(of_task.names))
        drawn = {
            "random_pictures": _random_pictures(of_task, top, judging.n_draws, seed),
            "shuffled_labels": _shuffled_labels(of_task, top, judging.n_draws, seed),
        }
        details: dict[str, Any] = {
            "task": task,
            "n_classes": len(of_task.names),
            "n_pictures": len(of_task.pictures),
            "n_judged": len(top.latents),
            "n_top": judging.n_top,
        }
        for name, measure, unit in (
            (ENTROPY, label_entropies, "bits"),
            (SIGMA, sigma_label, "class numbers"),
        ):
            values = measure(own)
            more = {} if name == ENTROPY else _of_other_orders(own, judging.n_draws, seed)
            rows.append(
                Result(
                    metric=f"{name}_{task}",
                    estimate=NO_DATA if len(values) == 0 else mean(values),
                    higher_is_better=False,
                    unit=unit,
                    cell=dict(cell),
                    baselines={
                        kind: _over_draws(counts, measure) for kind, counts in drawn.items()
                    },
                    details=details | more,
                    version=VERSION,
                )
            )
    return rows


def _random_pictures(
    labels: Labels, top: TopPictures, n_draws: int, seed: int
) -> list[Int[np.ndarray, "latents classes"]]:
    """Class counts of random labelled pictures, [latents, classes] for each draw."""
    if len(top.latents) == 0:
        return []
    latents, n_top = top.pictures.shape
    pool = class_counts(labels.classes[labels.pictures], len(labels.names))
    generator = np.random.default_rng(seed)
    # Drawing without replacement: only the number of each class matters.
    draw = partial(generator.multivariate_hypergeometric, pool, n_top, size=latents)
    return [draw() for _ in range(n_draws)]


def _shuffled_labels(
    labels: Labels, top: TopPictures, n_draws: int, seed: int
) -> list[Int[np.ndarray, "latents classes"]]:
    """Class counts of the latents' own top pictures, for each shuffle of the labels."""
    generator, shuffled, counts = np.random.default_rng([seed, 1]), labels.classes.copy(), []
    for _ in range(n_draws if len(top.latents) else 0):
        shuffled[labels.pictures] = generator.permutation(labels.classes[labels.pictures])
        counts.append(class_counts(shuffled[top.pictures], len(labels.names)))
    return counts


def _over_draws(counts: Sequence[Int[np.ndarray, "latents classes"]], measure: Any) -> Estimate:
    """Mean over latents, then mean and 95 % range over draws; n counts latents."""
    if not counts:
        return NO_DATA
    means = np.array([measure(of_draw).mean() for of_draw in counts])
    return Estimate(float(means.mean()), percentile_interval(means), len(counts[0]))


def _of_other_orders(
    own: Int[np.ndarray, "latents classes"], n_draws: int, seed: int
) -> dict[str, Any]:
    """The range of sigma_label over random orders of the classes."""
    if len(own) == 0:
        return {}
    generator, n_classes = np.random.default_rng([seed, 2]), own.shape[1]
    sigmas = [sigma_label(own[:, generator.permutation(n_classes)]).mean() for _ in range(n_draws)]
    return {"other_orders": list(percentile_interval(np.array(sigmas)))}


def majority_labels(
    top: TopPictures, labels: Labels
) -> tuple[list[str], Float[np.ndarray, " latents"]]:
    """The most frequent class of each latent's top pictures (the first if equal), and its share."""
    counts = class_counts(labels.classes[top.pictures], len(labels.names))
    names = list(labels.names)
    best = [names[number] for number in counts.argmax(axis=1).tolist()]
    return best, counts.max(axis=1) / top.pictures.shape[1]


def majority_tag(tags: Sequence[Sequence[str]]) -> tuple[str, float] | None:
    """The most frequent tag of a latent's top pictures, and the share of pictures that have it.

    `tags` has the tags of each picture, in the tagger's order; of equally frequent tags the one
    that comes first is taken. None: no picture has a tag.
    """
    counts: dict[str, int] = {}
    for of_picture in tags:
        for tag in dict.fromkeys(of_picture):
            counts[tag] = counts.get(tag, 0) + 1
    if not counts:
        return None
    name = max(counts, key=lambda tag: counts[tag])  # the first if equal
    return name, counts[name] / len(tags)
