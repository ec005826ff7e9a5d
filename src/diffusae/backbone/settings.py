"""Settings of the studied model, and the names that they may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from diffusae.settings import Settings, Within

Layout = Literal["one_batch", "two_passes", "guided_passes", "none"]
"""How classifier-free guidance runs: as one batch [uncond, cond], as a pass for `cond` and one for
`uncond` (asked for by a true guidance scale, or by the guidance scale itself), or not
at all."""
SchedulerChoice = Literal["ddim", "keep"]


@dataclass(frozen=True)
class WithinOrAuto(Within):
    """A whole number in a range, or `auto`."""

    def broken(self, value: Any, kind: Any) -> str | None:
        fault = None if value == "auto" else super().broken(value, int)
        return fault and f"{fault}, or auto"


Scale = Annotated[float, Within(0, 100)]
Pixels = Annotated[int, Within(8, 8192)]


@dataclass(frozen=True, kw_only=True)
class ModelSettings(Settings, part="model"):
    """The model and how its pictures are made (`conf/model`)."""

    name: str
    source: str
    """A folder, or a hub id."""
    revision: str | None
    variant: str | None
    architecture: str | None
    """Published sizes that ship with the package."""
    hookpoints: Mapping[str, str | int | None]
    """Block -> its name (`backbone.sites`) or its place in the list of hookpoints; None: no block
    of this study."""
    scheduler: SchedulerChoice
    steps: Annotated[int, Within(1, 1000)]
    log_snr_shift: Annotated[float, Within(-10, 10)]
    """By how much higher the log-SNR of every step is than on the scheduler's own schedule."""
    guidance: Scale
    true_guidance: Scale | None
    """Of a second, unconditional pass of FLUX; None: there is none."""
    guidance_layout: Layout | None
    """None: as the model itself says."""
    latent_scale: int | None
    """Pixels of a latent entry along each side; None: as the model itself says."""
    text_tokens: Annotated[int, Within(1, 512)] | None
    """The length that T5 prompts are padded and cut to; None: the pipeline's own."""
    height: Pixels
    width: Pixels
    batch_size: Annotated[int | Literal["auto"], WithinOrAuto(1, 4096)]
    """Pictures that are made at a time (`study.pictures_at_once`)."""
    dtype: Literal["float32", "float16", "bfloat16"]
    compile: bool
