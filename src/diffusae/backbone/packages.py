"""Packages that are not installed with diffusae, and the extras that bring them."""

from __future__ import annotations

from importlib.util import find_spec

from diffusae.errors import UserError


def require_packages(wanted_by: str, extra: str, *packages: str) -> None:
    """`UserError` with all of `packages` that are missing, and the extra that has them."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise UserError(
            f"{wanted_by} needs {' and '.join(missing)}, not installed here; "
            f"pip install 'diffusae[{extra}]'"
        )
