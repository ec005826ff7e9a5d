"""A pipeline with random weights of every family that conf/model names. Each is of the published
class."""

from typing import Any

from tiny_families import flux, pixart, stable_diffusion, stable_diffusion_3
from tiny_families.parts import PIXELS, T5_TOKENS, Family
from tiny_families.stable_diffusion import sd
from tiny_pipeline import seeded

__all__ = ["FAMILIES", "PIXELS", "T5_TOKENS", "Family", "sd", "tiny_family"]

FAMILIES: dict[str, Family] = {
    **stable_diffusion.FAMILIES,
    **stable_diffusion_3.FAMILIES,
    **flux.FAMILIES,
    **pixart.FAMILIES,
}


def tiny_family(name: str, seed: int = 0) -> Any:
    """A fresh pipeline of a family on the CPU in float32, the same for the same seed; global
    randomness is untouched.
    """
    return seeded(FAMILIES[name].make, seed)
