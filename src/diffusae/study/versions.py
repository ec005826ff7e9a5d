"""Which sources these are."""

from __future__ import annotations

from diffusae.runs.record import _git


def commit() -> str | None:
    """The commit of the sources, with a `+` where they differ from it; None outside a
    repository.
    """
    revision, changed = _git()
    return None if revision is None else f"{revision[:12]}{'+' if changed else ''}"
