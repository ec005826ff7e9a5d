"""The rows of a cell's faithfulness, and the gate: is the SAE fit for conclusions?"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Unpack

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from diffusae.errors import UserError
from diffusae.evaluation import faithfulness as measures
from diffusae.evaluation.proportion import share
from diffusae.evaluation.result import NO_DATA, Estimate, Resampling, Result
from diffusae.settings import Settings, Within

VERSION = 1
OWN, MEAN, CONTROL = "reconstruction", "mean_update", "with_error"
"""The replacement of the update: x_hat; the mean update; x_hat + its error: no change."""
EDITS = (OWN, MEAN, CONTROL)


Threshold = Annotated[float, Within(0, 1)] | None


@dataclass(frozen=True, kw_only=True)
class Gate(Settings, part="evaluation.gate"):
    """Thresholds; None: not asked. A figure without data is not asked either."""

    least_loss_recovered: Threshold
    least_ssim: Threshold
    least_content_kept: Threshold
    most_content_distance: Threshold

    def passed(self, figures: Mapping[str, float | None]) -> dict[str, bool]:
        """Whether each threshold holds, of those that are set and whose figure is known."""
        asked = {
            "loss_recovered": self.least_loss_recovered,
            "picture_ssim": self.least_ssim,
            "content_kept": self.least_content_kept,
            "content_distance": self.most_content_distance,
        }
        passed = {}
        for name, threshold in asked.items():
            value = figures.get(name)
            if threshold is not None and value is not None:
                lower_is_better = name == "content_distance"
                passed[name] = value <= threshold if lower_is_better else value >= threshold
        return passed


@dataclass(frozen=True)
class EditOutcome:
    """What came of one edit, or of none.

    Attributes:
        errors: denoising errors of noised pictures.
        pictures: generated pictures, uint8.
        nouns: the nouns that the annotator found in each picture.
    """

    errors: Float[Tensor, " m"]
    pictures: UInt8[np.ndarray, "n height width 3"]
    nouns: Sequence[Collection[str]]


_UNITS = {
    "loss_recovered": (True, "ratio"),
    "denoising_error_change": (False, "ratio"),
    "picture_mse": (False, "squared pixel"),
    "picture_ssim": (True, "SSIM"),
    "content_kept": (True, "IoU of nouns"),
    "content_distance": (False, "total variation"),
}
"""Metric -> whether higher is better, and its unit."""


def faithfulness_results(
    own: EditOutcome,
    edited: Mapping[str, EditOutcome],
    *,
    gate: Gate,
    cell: Mapping[str, Any],
    details: Mapping[str, Any] | None = None,
    n_halves: int = 200,
    **resampling: Unpack[Resampling],
) -> list[Result]:
    """Seven rows: the six figures and `usable`, 1 where the gate is passed and 0 where not.

    `mean_update_passes_too` means that the picture hardly depends on this block at this moment: the
    gate then says nothing.

    Args:
        own: without an edit.
        edited: the outcome of each of `EDITS`.

    Raises:
        UserError: an edit is missing.
    """
    if missing := set(EDITS) - set(edited):
        raise UserError(
            f"no outcome of {', '.join(sorted(missing))}; carry out all of {', '.join(EDITS)}"
        )
    figures = {
        name: _figures(outcome, own, edited[MEAN], **resampling) for name, outcome in edited.items()
    }
    other = _other_picture(own, **resampling)
    halves = measures.distance_of_halves(
        own.nouns, n_halves=n_halves, seed=resampling.get("seed", 0)
    )
    passed = {
        name: gate.passed({key: estimate.value for key, estimate in of_edit.items()})
        for name, of_edit in figures.items()
    }
    verdict = {
        "gate": _word(passed[OWN]),
        "mean_update_passes_too": bool(passed[MEAN]) and all(passed[MEAN].values()),
        **(details or {}),
    }
    common: Any = {"cell": dict(cell), "version": VERSION}
    rows = []
    for metric, (higher_is_better, unit) in _UNITS.items():
        beside = {name: figures[name][metric] for name in (MEAN, CONTROL)}
        if metric in other:
            beside["other_picture"] = other[metric]
        if metric == "content_distance":
            beside["halves"] = halves
        common |= {"baselines": beside, "details": verdict}
        rows.append(Result(metric, figures[OWN][metric], higher_is_better, unit, **common))
    checks = {f"{name}_passed": holds for name, holds in passed[OWN].items()}
    common |= {"baselines": {name: _usable(passed[name]) for name in (MEAN, CONTROL)}}
    common |= {"details": verdict | vars(gate) | checks}
    return [*rows, Result("usable", _usable(passed[OWN]), True, "share", **common)]


def _figures(
    outcome: EditOutcome, own: EditOutcome, ablated: EditOutcome, **resampling: Unpack[Resampling]
) -> dict[str, Estimate]:
    errors = outcome.errors
    return {
        "loss_recovered": measures.loss_recovered(errors, own.errors, ablated.errors, **resampling),
        "denoising_error_change": measures.denoising_error_change(errors, own.errors, **resampling),
        **_pictures(outcome, own, **resampling),
        "content_distance": measures.content_distance(outcome.nouns, own.nouns, **resampling),
    }


def _pictures(
    outcome: EditOutcome, own: EditOutcome, **resampling: Unpack[Resampling]
) -> dict[str, Estimate]:
    values = {
        "picture_mse": measures.picture_mse(outcome.pictures, own.pictures),
        "picture_ssim": measures.picture_ssim(outcome.pictures, own.pictures),
    }
    kept = share(measures.content_kept(outcome.nouns, own.nouns))
    return {
        **{name: measures.over_pictures(each, **resampling) for name, each in values.items()},
        "content_kept": kept,
    }


def _other_picture(own: EditOutcome, **resampling: Unpack[Resampling]) -> dict[str, Estimate]:
    """The unedited picture of the next caption: the figures of unrelated pictures."""
    if len(own.pictures) < 2:
        return {}
    nouns = [*own.nouns[1:], own.nouns[0]]
    other = EditOutcome(own.errors, np.roll(own.pictures, -1, axis=0), nouns)
    return _pictures(other, own, **resampling)


def _usable(passed: Mapping[str, bool]) -> Estimate:
    return Estimate(float(all(passed.values())), None, 1) if passed else NO_DATA


def _word(passed: Mapping[str, bool]) -> str:
    if not passed:
        return "not judged"
    return "usable" if all(passed.values()) else "unreliable"
