"""What is measured of an edited picture: what the annotator finds before and after, how far the two
pictures are apart, and how large the edited updates are beside held-out ones.

What cannot be measured is not guessed: its place says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusae.activations.manifest import Manifest
from diffusae.activations.reader import read_images
from diffusae.backbone.schedule import t_of
from diffusae.backbone.settings import ModelSettings
from diffusae.errors import UserError
from diffusae.evaluation.intervention_success import FeatureDistance
from diffusae.evaluation.structural_similarity import structural_similarity
from diffusae.explorer.looking import Looking
from diffusae.exploring.listed_edits import EditPreparer, PreparedEdit, PreparedEdits
from diffusae.exploring.opened import OpenStudy
from diffusae.interventions.edits import Change

HELD_OUT = "test"
"""The split of the pictures that edited ones are compared with: nothing was chosen on it."""
PICTURES = 32
"""Held-out pictures of which norms and distances are taken."""

Score = Mapping[str, Any]


class Measured:
    """A change that also notes the lengths of updates before and after it, call by call."""

    def __init__(self, change: Change) -> None:
        self.change = change
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []
        """Lengths before, lengths after, and where something was changed; [pictures, P]."""

    def __call__(self, updates: Tensor, grid: tuple[int, int]) -> Tensor:
        added = self.change(updates, grid)
        before, after = updates.norm(dim=-1), (updates + added).norm(dim=-1)
        self.calls.append((before, after, added.abs().amax(dim=-1) > 0))
        return added


class Scores:
    """Measures edited pictures of a study. What it needs is loaded at its first use and kept.

    Args:
        study: the open study.
        preparer: of its edits; has the annotator.
        looking: has what the study's collection stores.
    """

    def __init__(self, study: OpenStudy, preparer: EditPreparer, looking: Looking) -> None:
        self._study, self._preparer, self._looking = study, preparer, looking
        self.steps = ModelSettings.of(study.settings.cfg).steps
        self.held_out_norms = lru_cache(32)(self._held_out_norms)

    def of(self, own: PreparedEdits, twin: PreparedEdits | None) -> JobScores:
        """The scores of one job."""
        return JobScores(self, {"after": own} | ({} if twin is None else {"random": twin}))

    def _held_out_norms(self, name: str) -> np.ndarray:
        return self._looking.pictures.norms(self._preparer.cells[name].settings, HELD_OUT, PICTURES)

    def annotations(self, pictures: np.ndarray, prompt: str) -> Sequence[Any]:
        """What the annotator finds in pictures."""
        return self._preparer.annotator.annotate(pictures, [prompt] * len(pictures))

    @cached_property
    def feature_distance(self) -> FeatureDistance:
        """The distance in the annotator's features; 1: as far as two held-out pictures.

        Raises:
            UserError: the annotator has no features, or the study keeps no pictures.
        """
        features = getattr(self._preparer.annotator, "features", None)
        if features is None:
            raise UserError("the annotator gives no features of pictures")
        root = self._study.settings.held_out.activations
        kept = read_images(root, Manifest.load(root), HELD_OUT)
        return FeatureDistance(features, [image for _, image, _ in islice(kept, PICTURES)])


@dataclass
class JobScores:
    """The scores of one job: `edits` are its own ("after") and, where there are, random ones."""

    common: Scores
    edits: Mapping[str, PreparedEdits]

    def __post_init__(self) -> None:
        self._calls: dict[tuple[str, int], list[Measured]] = {}

    @contextmanager
    def measured(self, name: str, seed: int) -> Iterator[PreparedEdits]:
        """The edits for one picture, whose updates are measured meanwhile; they do the same."""
        own = self.edits[name]
        changes = [Measured(one.edit.change) for one in own.of_updates]
        watched = [
            replace(one, edit=replace(one.edit, change=change))
            for one, change in zip(own.of_updates, changes, strict=True)
        ]
        self._calls[name, seed] = changes
        yield replace(own, of_updates=tuple(watched))

    def rows(
        self, prompt: str, seed: int, pictures: Mapping[tuple[str, int], np.ndarray]
    ) -> dict[str, Any]:
        """{"scores": ..., "random_scores": ...} of one seed; the second is None without random
        latents.
        """
        names = ["before", *self.edits]
        shown = np.stack([pictures[name, seed] for name in names])
        annotated = _or_why(lambda: self.common.annotations(shown, prompt))
        rows: list[dict[str, Any]] = []
        for place, name in enumerate(names[1:], start=1):
            found = annotated
            if not isinstance(annotated, str):
                found = compared(annotated[0], annotated[place])
            rows.append(
                {
                    "annotator": found,
                    "distance": self._distance(shown[:1], shown[place : place + 1]),
                    "updates": self._updates(name, seed),
                }
            )
        return {"scores": rows[0], "random_scores": rows[1] if len(rows) > 1 else None}

    def _distance(self, before: np.ndarray, after: np.ndarray) -> Score:
        similar = structural_similarity(before, after)
        far = _or_why(lambda: self.common.feature_distance(before, after)[0])
        return {"ssim": round(float(similar[0]), 4), "feature_distance": _rounded(far)}

    def _updates(self, name: str, seed: int) -> Score:
        """The sizes of the updates of every edit at the step nearest to its cell's t."""
        edits = self.edits[name].of_updates
        return {
            f"{place} {edit.cell.name}": self._sizes(edit, measured)
            for place, (edit, measured) in enumerate(
                zip(edits, self._calls[name, seed], strict=True), start=1
            )
        }

    def _sizes(self, edit: PreparedEdit, measured: Measured) -> Score | str:
        call = call_at(edit, measured, self.common.steps)
        if call is None:
            return "the edit did not act: no step is in its window"
        before, after, where = (tensor[0].float().cpu().numpy() for tensor in call)
        changed = where > 0
        if not changed.any():
            return "the edit changed nothing: its latents are not active there"
        before, after = before[changed], after[changed]
        sizes: dict[str, Any] = {"norm_ratio": round(float(after.mean() / before.mean()), 4)}
        held_out = _or_why(lambda: self.common.held_out_norms(edit.cell.name))
        if isinstance(held_out, str):
            return sizes | {"percentile": f"no data: {held_out}"}
        return sizes | {
            "percentile_before": percentile(before, held_out),
            "percentile": percentile(after, held_out),
        }


def call_at(
    edit: PreparedEdit, measured: Measured, steps: int
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The call of an edit at the step nearest to its cell's t, on the cell's own branch where that
    is edited. None: it was not called.
    """
    times = [t for t in (t_of(index, steps) for index in range(steps)) if edit.edit.acts_at(t)]
    branches = edit.edit.conditionings
    if not times or not measured.calls:
        return None
    nearest = min(range(len(times)), key=lambda place: abs(times[place] - edit.cell.t))
    own = edit.cell.conditioning
    branch = branches.index(own) if own in branches else 0
    return measured.calls[min(nearest * len(branches) + branch, len(measured.calls) - 1)]


def percentile(lengths: np.ndarray, held_out: np.ndarray) -> float:
    """The mean percentile of lengths among held-out ones, which ascend: 100 x the share that is
    not longer.

    Example: among 1, 2, 3, 4 the lengths 2 and 9 have the percentiles 50 and 100: 75.
    """
    shares = np.searchsorted(held_out, lengths, side="right") / len(held_out)
    return round(100 * float(shares.mean()), 2)


def compared(before: Any, after: Any) -> Score:
    """What the annotator finds before and after: objects by the share of the picture that they
    cover, and how far they went, in sides of the picture; and the likeliest style.
    """
    objects: dict[str, Any] = {}
    for noun in sorted({*before.masks, *after.masks}):
        masks = [one.masks.get(noun) for one in (before, after)]
        shares = [0.0 if mask is None else round(float(mask.mean()), 4) for mask in masks]
        row: dict[str, Any] = dict(zip(("before", "after"), shares, strict=True))
        if all(shares):
            first, second = (centre(mask) for mask in masks)
            row["moved"] = round(float(np.hypot(*(first - second))), 4)
        objects[noun] = row
    styles = {
        factor: {"before": value, "after": after.factors.get(factor)}
        for factor, value in before.factors.items()
    }
    return {"objects": objects or "none found", **styles}


def centre(mask: Any) -> np.ndarray:
    """The centre of a mask as shares of height and width."""
    where = np.argwhere(np.asarray(mask)) + 0.5
    return where.mean(axis=0) / np.asarray(mask).shape


def _or_why(measure: Callable[[], Any]) -> Any:
    """What is measured, or as text why it cannot be."""
    try:
        with torch.no_grad():
            return measure()
    except UserError as error:
        return str(error)


def _rounded(value: Any) -> Any:
    return value if isinstance(value, str) else round(float(value), 4)
