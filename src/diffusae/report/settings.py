"""Settings of the W&B dashboard and of comparisons."""

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


@dataclass(frozen=True, kw_only=True)
class CompareSettings(Settings, part=""):
    """`conf/compare.yaml`."""

    reference: str
    """A paper's figures; with `studies` they have no part."""
    studies: list[str]
    """Directories of studies that are laid side by side; empty: the study is laid beside a
    paper."""
    page: str
    """Where these are shown."""
