"""A pipeline with random weights of every family that conf/model names. Each is of the published
class.

A module of this package holds one family or several as `FAMILIES`, {name: Family}; nothing else
lists them.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from tiny_families.parts import PIXELS, T5_TOKENS, Family
from tiny_families.stable_diffusion import sd
from tiny_pipeline import seeded

__all__ = ["FAMILIES", "PIXELS", "T5_TOKENS", "USUAL", "Family", "sd", "tiny_family"]


def _found() -> dict[str, Family]:
    modules = [import_module(f"{__name__}.{info.name}") for info in iter_modules(__path__)]
    return {
        name: family
        for module in modules
        for name, family in getattr(module, "FAMILIES", {}).items()
    }


FAMILIES = _found()
USUAL = ("sd", "sdxl", "sd3", "flux", "pixart")
"""One family of every kind: U-Nets, joint blocks, guidance in two passes, cross-attention. Tests
outside of `tests/families` use these alone."""


def tiny_family(name: str, seed: int = 0) -> Any:
    """A fresh pipeline of a family on the CPU in float32, the same for the same seed; global
    randomness is untouched.
    """
    return seeded(FAMILIES[name].make, seed, strong=FAMILIES[name].strong)
