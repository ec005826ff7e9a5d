"""Settings of the mirror in W&B."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from diffusae.runs.wandb_mode import Mode
from diffusae.settings import Settings, Within


@dataclass(frozen=True, kw_only=True)
class LoggerSettings(Settings, part="logger"):
    """Where metrics go beside the local JSONL (`conf/logger`)."""

    mode: Mode
    project: str
    entity: str | None
    """None: that of the key."""
    group: str
    timeout_s: Annotated[float, Within(1e-3, 10**6)]
    """The longest wait for W&B."""
