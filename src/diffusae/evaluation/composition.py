"""Composition prediction: where a noun will be, from one cell's concepts (Emergence, section 5).

At each position, the most active concepts with a dictionary entry give a mean embedding. Its cosine
with the noun's embedding is a score map, which is cut into a mask and compared with the annotator's
mask by IoU. Nouns without an embedding, or not found by the annotator, are counted as no data,
never as 0.

The paper states neither how many concepts a position has nor the threshold. `tune` chooses these
and the other `Settings` on the tuning split; `evaluate` applies the choice to the test split.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, Literal, Unpack, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffusae.errors import UserError, unknown
from diffusae.evaluation.masks import Threshold, choose_threshold, flat, iou_at, relative
from diffusae.evaluation.result import Estimate, Resampling, Result, bootstrap_mean

Weighting = Literal["activation", "uniform"]
Scale = Literal["absolute", "relative"]

VERSION = 1
_POSITIONS_AT_ONCE = 1 << 14
_LOWEST_COSINE = -1.0


@dataclass(frozen=True)
class Picture:
    """One picture: its codes, and the annotator's masks for the nouns of its prompt."""

    image_id: str
    values: Float[Tensor, "P k"]
    indices: Int[Tensor, "P k"]
    nouns: Sequence[str]
    masks: Mapping[str, Any]


@dataclass(frozen=True)
class Split:
    """The pictures of a split and its objects: a noun of a prompt with a mask and an embedding.

    `picture[i]` is the row of object i's picture. `n_unannotated` and `n_unembedded` count nouns
    without data.
    """

    values: Float[Tensor, "n P k"]
    indices: Int[Tensor, "n P k"]
    grid: tuple[int, int]
    picture: Int[Tensor, " m"]
    image_ids: list[str]
    nouns: list[str]
    masks: Bool[Tensor, "m H W"]
    n_unannotated: int = 0
    n_unembedded: int = 0

    @property
    def groups(self) -> list[str]:
        """The image id of each object; the bootstrap resamples pictures."""
        return [self.image_ids[row] for row in self.picture.tolist()]

    def to(self, device: torch.device | str) -> Split:
        """The same split with its tensors on a device."""
        moved = {
            name: value.to(device) for name, value in vars(self).items() if hasattr(value, "to")
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class ConceptSpace:
    """The dictionary of a cell, as tensors.

    Attributes:
        d_sae: latents of the SAE.
        latents, embeddings: latents with an entry and their concept embeddings.
        nouns: noun -> embedding.
        centre: the mean embedding of the label vocabulary, for `Settings.centred`.
    """

    d_sae: int
    latents: Int[Tensor, " labelled"]
    embeddings: Float[Tensor, "labelled d"]
    nouns: Mapping[str, Float[Tensor, " d"]]
    centre: Float[Tensor, " d"]

    def to(self, device: torch.device | str) -> ConceptSpace:
        """The same space with its tensors on a device."""
        return ConceptSpace(
            self.d_sae,
            self.latents.to(device),
            self.embeddings.to(device),
            {noun: embedding.to(device) for noun, embedding in self.nouns.items()},
            self.centre.to(device),
        )


@dataclass(frozen=True)
class Settings:
    """The open choices of composition prediction.

    Attributes:
        top_n: the most concepts of a position, of those with a dictionary entry.
        weighting: "activation": each concept counts by its activation; "uniform": all alike.
        centred: first subtract the mean embedding of the label vocabulary from concepts and nouns.
            Sentence embeddings share a large common part, which otherwise hides the differences.
        scale: "absolute": one cosine is the threshold of all pictures; "relative": each map is
            first scaled to [0, 1] by its own range.

    Raises:
        UserError: `top_n` below 1, an unknown weighting or scale.
    """

    top_n: int = 5
    weighting: Weighting = "activation"
    centred: bool = False
    scale: Scale = "absolute"

    def __post_init__(self) -> None:
        if self.top_n < 1:
            raise UserError(f"top_n={self.top_n} must be at least 1; raise it")
        if self.weighting not in get_args(Weighting):
            raise unknown("weighting", self.weighting, get_args(Weighting))
        if self.scale not in get_args(Scale):
            raise unknown("scale", self.scale, get_args(Scale))

    @property
    def thresholds(self) -> Float[Tensor, " t"]:
        """The thresholds to try, in steps of 0.01: cosines -1 ... 1 or shares 0 ... 1."""
        return torch.linspace(-1, 1, 201) if self.scale == "absolute" else torch.linspace(0, 1, 101)


@dataclass(frozen=True)
class Tuned:
    """The best setting on the tuning split, its threshold, and the tuning IoU of every setting."""

    settings: Settings
    threshold: Threshold
    tried: list[tuple[Settings, float]]


def settings_grid(
    *,
    top_n: Sequence[int] = (1, 3, 5, 10),
    weighting: Sequence[Weighting] = ("activation", "uniform"),
    centred: Sequence[bool] = (False, True),
    scale: Sequence[Scale] = ("absolute", "relative"),
) -> list[Settings]:
    """Every combination of the values; pass one value to keep a setting fixed."""
    return [Settings(*choice) for choice in product(top_n, weighting, centred, scale)]


def build_split(
    pictures: Iterable[Picture], *, grid: tuple[int, int], known_nouns: Iterable[str]
) -> Split:
    """Collect the pictures of a split. Empty masks count as not annotated.

    Raises:
        UserError: no pictures.
    """
    pictures, known = list(pictures), set(known_nouns)
    if not pictures:
        raise UserError("the split has no pictures; collect held-out pictures first")
    rows, nouns, masks = [], [], []
    n_unannotated = n_unembedded = 0
    for row, picture in enumerate(pictures):
        for noun in dict.fromkeys(picture.nouns):
            mask = torch.as_tensor(picture.masks.get(noun, False), dtype=torch.bool)
            if not mask.any():
                n_unannotated += 1
            elif noun not in known:
                n_unembedded += 1
            else:
                rows.append(row)
                nouns.append(noun)
                masks.append(mask)
    return Split(
        values=torch.stack([picture.values for picture in pictures]),
        indices=torch.stack([picture.indices for picture in pictures]).long(),
        grid=grid,
        picture=torch.tensor(rows, dtype=torch.long),
        image_ids=[picture.image_id for picture in pictures],
        nouns=nouns,
        masks=torch.stack(masks) if masks else torch.zeros(0, *grid, dtype=torch.bool),
        n_unannotated=n_unannotated,
        n_unembedded=n_unembedded,
    )


def predict_scores(split: Split, space: ConceptSpace, settings: Settings) -> Float[Tensor, "m h w"]:
    """The score map of every object of a split, on the device where split and space are.

    A position without an active concept that has an entry gets the lowest score: -1 (absolute) or 0
    (relative, where 0 is also the lowest score among the other positions of the map).
    """
    cosines = concept_cosines(split, space, settings)
    if settings.scale == "relative":
        return relative(_levelled(cosines), of=1.0)
    return torch.where(cosines.isfinite(), cosines, _LOWEST_COSINE)


def flat_maps(cosines: Float[Tensor, "m h w"]) -> Bool[Tensor, " m"]:
    """Which maps of `concept_cosines` are flat (`masks.flat`) over the positions with a concept:
    their concepts all say the same, such as "background", and tell nothing of where a noun is.
    """
    return flat(_levelled(cosines), of=1.0)


def _levelled(cosines: Float[Tensor, "m h w"]) -> Float[Tensor, "m h w"]:
    """Positions without a concept must not stretch the range: they get the lowest cosine."""
    known = cosines.isfinite()
    lowest = torch.where(known, cosines, torch.inf).amin(dim=(1, 2), keepdim=True)
    return torch.where(known, cosines, torch.where(lowest.isfinite(), lowest, 0.0))


def concept_cosines(
    split: Split, space: ConceptSpace, settings: Settings
) -> Float[Tensor, "m h w"]:
    """The cosine of every position's concepts with the noun of each object; NaN where no concept
    with an entry is active.
    """
    names = list(dict.fromkeys(split.nouns))
    if not names:
        return split.masks.new_zeros(0, *split.grid, dtype=torch.float32)
    if len(space.latents) == 0:
        shape = (len(split.nouns), *split.grid)
        return split.masks.new_full(shape, torch.nan, dtype=torch.float32)
    shift = space.centre if settings.centred else torch.zeros_like(space.centre)
    targets = F.normalize(torch.stack([space.nouns[name] for name in names]) - shift, dim=1)
    cosines, labelled = _cosines(split, space, settings, shift, targets)
    column = torch.tensor([names.index(noun) for noun in split.nouns], device=cosines.device)
    scores = cosines[split.picture, :, column].reshape(-1, *split.grid)
    has_concept = labelled[split.picture].reshape(-1, *split.grid)
    return torch.where(has_concept, scores, torch.nan)


def _cosines(
    split: Split,
    space: ConceptSpace,
    settings: Settings,
    shift: Tensor,
    targets: Float[Tensor, "nouns d"],
) -> tuple[Float[Tensor, "n P nouns"], Bool[Tensor, "n P"]]:
    """Cosine of each position's mean concept embedding with each noun; which positions have one."""
    unlabelled = len(space.latents)
    row_of = space.latents.new_full((space.d_sae,), unlabelled, dtype=torch.long)
    row_of[space.latents] = torch.arange(unlabelled, device=row_of.device)
    # The last row, all zeros, stands for every latent without an entry.
    table = F.pad(space.embeddings - shift, (0, 0, 0, 1))
    n, positions, k = split.values.shape
    rows = row_of[split.indices].reshape(-1, k)
    values = torch.where(rows < unlabelled, split.values.reshape(-1, k).float(), 0.0)
    weights, slots = values.topk(min(settings.top_n, k), dim=1)
    rows = rows.gather(1, slots)
    if settings.weighting == "uniform":
        weights = (weights > 0).float()
    cosines = []
    parts = (rows.split(_POSITIONS_AT_ONCE), weights.split(_POSITIONS_AT_ONCE))
    for row, weight in zip(*parts, strict=True):
        # A cosine does not depend on length: the weighted sum serves as the weighted mean.
        sums = F.embedding_bag(row, table, per_sample_weights=weight, mode="sum")
        cosines.append(F.normalize(sums, dim=1) @ targets.T)
    labelled = (weights > 0).any(dim=1)
    return torch.cat(cosines).reshape(n, positions, -1), labelled.reshape(n, positions)


def tune(tuning: Split, space: ConceptSpace, grid: Sequence[Settings]) -> Tuned:
    """Try every setting of `grid` on the tuning split; the highest mean IoU wins.

    Raises:
        UserError: an empty grid, or a tuning split without objects.
    """
    if not grid:
        raise UserError("there is no setting to try; give at least one")
    thresholds = [
        choose_threshold(predict_scores(tuning, space, one), tuning.masks, one.thresholds)
        for one in grid
    ]
    best = max(range(len(grid)), key=lambda n: thresholds[n].tuning_iou)
    tried = [(setting, own.tuning_iou) for setting, own in zip(grid, thresholds, strict=True)]
    return Tuned(grid[best], thresholds[best], tried)


@dataclass(frozen=True)
class ObjectIou:
    """The IoU of one object, for tables and pictures of the report."""

    image_id: str
    noun: str
    iou: float


def evaluate(
    test: Split,
    space: ConceptSpace,
    tuned: Tuned,
    *,
    cell: Mapping[str, Any],
    baselines: Mapping[str, Estimate],
    **resampling: Unpack[Resampling],
) -> tuple[Result, list[ObjectIou]]:
    """Mean IoU on the test split with an interval over pictures, and every object's IoU.

    Range [0, 1], higher is better. `n` counts objects; `details` holds the chosen settings, the
    nouns without data and the maps that are flat (`flat_maps`).
    """
    iou = iou_at(predict_scores(test, space, tuned.settings), test.masks, tuned.threshold.value)
    rows = [
        ObjectIou(image_id, noun, value)
        for image_id, noun, value in zip(test.groups, test.nouns, iou.tolist(), strict=True)
    ]
    estimate = bootstrap_mean(iou.numpy(), groups=test.groups, **resampling)
    result = Result(
        metric="composition",
        estimate=estimate,
        higher_is_better=True,
        unit="IoU",
        cell=dict(cell),
        baselines=dict(baselines),
        details={
            "settings": asdict(tuned.settings),
            "threshold": tuned.threshold.value,
            "tuning_iou": tuned.threshold.tuning_iou,
            "n_settings_tried": len(tuned.tried),
            "n_pictures": len(test.image_ids),
            "n_flat_maps": int(flat_maps(concept_cosines(test, space, tuned.settings)).sum()),
            "n_unannotated": test.n_unannotated,
            "n_unembedded": test.n_unembedded,
        },
        version=VERSION,
    )
    return result, rows
