"""Settings of the W&B dashboard."""

from __future__ import annotations

from dataclasses import dataclass

from diffusae.settings import Settings


@dataclass(frozen=True, kw_only=True)
class DashboardSettings(Settings, part="dashboard"):
    """What the dashboard shows (`conf/dashboard.yaml`)."""

    metrics: list[str]
    """Names or patterns of rows of results.json."""
    training: list[str]
    """Figures of the cells' trainings."""
    galleries: list[str]
    """Pictures with captions of the cells' runs."""
