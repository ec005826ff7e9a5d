"""The windows of the generation in which the papers edit (Emergence, section 6)."""

from __future__ import annotations

from collections.abc import Sequence

from diffusae.errors import UserError

Window = tuple[float, float]
"""(first, last) t, both included; t falls from 1 to 0."""

WINDOWS: dict[str, Window] = {"early": (1.0, 0.6), "middle": (0.6, 0.2), "final": (0.2, 0.0)}

OWN_T: dict[str, float] = {"early": 1.0, "middle": 0.5, "final": 0.0}
"""The t of the SAE that the paper uses in each window."""


def window_name(window: Sequence[float]) -> str:
    """ "early", "middle", "final", or the two ends of another window."""
    first, last = float(window[0]), float(window[1])
    named = {bounds: name for name, bounds in WINDOWS.items()}
    return named.get((first, last), f"{first:g} to {last:g}")


def window_at(t: float) -> Window:
    """The window in which to use an SAE of this t; at a border, the earlier one.

    Raises:
        UserError: t outside [0, 1].
    """
    for window in WINDOWS.values():
        if window[1] <= t <= window[0]:
            return window
    raise UserError(f"t={t} lies outside [0, 1]; 1 is the first reverse step")
