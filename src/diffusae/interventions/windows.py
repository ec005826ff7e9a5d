"""The windows of the generation in which the papers edit (Emergence, section 6)."""

from __future__ import annotations

from diffusae.errors import UserError

Window = tuple[float, float]
"""(first, last) t, both included; t falls from 1 to 0."""

WINDOWS: dict[str, Window] = {"early": (1.0, 0.6), "middle": (0.6, 0.2), "final": (0.2, 0.0)}


def window_at(t: float) -> Window:
    """The window in which to use an SAE of this t; at a border, the earlier one.

    Raises:
        UserError: t outside [0, 1].
    """
    for window in WINDOWS.values():
        if window[1] <= t <= window[0]:
            return window
    raise UserError(f"t={t} lies outside [0, 1]; 1 is the first reverse step")
