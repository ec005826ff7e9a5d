"""What the metrics share whose edits have directions: settings, means over pictures, and what
explains their figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffusae.evaluation.metric_settings import Count, InterventionSettings
from diffusae.evaluation.proportion import share
from diffusae.evaluation.result import Estimate, bootstrap_mean
from diffusae.interventions.windows import window_at
from diffusae.steering.edited import EditedPictures, Place
from diffusae.study.study import Study


@dataclass(frozen=True, kw_only=True)
class DirectedSettings(InterventionSettings):
    """Settings of edits at the cell's own moment."""

    n_latents: Count
    """Latents that make a direction."""
    paper_beta: float | None = None
    """The paper's strength, kept beside ours."""

    def pictures(self, study: Study, blocks: Iterable[str]) -> EditedPictures:
        """Makes pictures, edited in these blocks."""
        places = [Place(block, window_at(study.cell.t)) for block in blocks]
        conditionings, steps = self.conditionings, self.steps
        return EditedPictures(study, places, conditionings=conditionings, steps=steps)

    def explained(
        self, study: Study, best: Mapping[str, float], scores: Mapping[str, Mapping[float, float]]
    ) -> dict[str, Any]:
        """What was edited, and how the strength of every method was chosen by its scores."""
        return {
            "window": list(window_at(study.cell.t)),
            "conditionings": self.conditionings,
            "n_latents": self.n_latents,
            "strength": best["concepts"],
            "strengths": dict(best),
            "tuning": {
                method: {str(strength): round(score, 4) for strength, score in tried.items()}
                for method, tried in scores.items()
            },
        }


def mean_over(
    study: Study, settings: InterventionSettings, values: Iterable[Any], image_ids: Iterable[str]
) -> Estimate:
    """The mean of numbers, or the share of truths, with its 95 % interval; values of a picture are
    resampled together.
    """
    values, groups = list(values), list(image_ids)
    if all(isinstance(value, bool | np.bool_) for value in values):
        return share(values, groups)
    return bootstrap_mean(
        [float(value) for value in values],
        groups=groups,
        n_resamples=settings.n_resamples,
        seed=study.seed,
    )
