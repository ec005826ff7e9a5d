"""Settings of what is worked out over several cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from diffusae.settings import Settings, Within

Resamples = Annotated[int, Within(1, 10**7)]


@dataclass(frozen=True, kw_only=True)
class EmergenceSettings(Settings, part="emergence"):
    """The curve over t (`diffusae.evaluation.emergence`)."""

    share: Annotated[float, Within(1e-6, 1)]
    """Of the final value, which the curve must stay above."""
    moments: Annotated[int, Within(2, 1000)]
    """Fewer in the grid make no curve."""
    n_resamples: Resamples


@dataclass(frozen=True, kw_only=True)
class ThreeStageSettings(Settings, part="three_stages"):
    """The table of interventions by window (`diffusae.evaluation.three_stages`)."""

    margin: Annotated[float, Within(1e-6, 1)]
    """Two shares of successes that differ by less are alike."""
    n_resamples: Resamples


@dataclass(frozen=True, kw_only=True)
class StabilitySettings(Settings, part="stability"):
    """The autoencoders of a cell that differ in their seed alone (`study.seeds`)."""

    seeds: Annotated[int, Within(1, 100)]
    """Of a cell, with the study's own; their figures are joined."""
    seed: Annotated[int, Within(0, 2**63)] | None
    """Of one more, which latents are compared with; None: the second of `seeds`, if any."""
    cells: list[str] | None
    """Keys of cells; None: all."""
