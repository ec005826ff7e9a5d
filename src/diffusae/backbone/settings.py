"""Settings of the studied model, and the names that they may take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from diffusae.errors import together
from diffusae.settings import Settings, Within

Layout = Literal["one_batch", "cond_first", "two_passes", "guided_passes", "none"]
"""How classifier-free guidance runs: as one batch [uncond, cond] or [cond, uncond], as a pass for
`cond` and one for `uncond` (asked for by a true guidance scale, or by the guidance scale itself),
or not at all."""
SchedulerChoice = Literal["ddim", "keep"]
Quantity = Literal["update", "output"]
"""What is recorded of a block: output minus input, or its output."""
Offload = Literal["none", "model", "sequential", "group"]
"""What leaves the GPU while it does not compute: nothing, whole components, single layers, or
groups of layers (a block of the denoiser; single layers of the other components)."""
Quantization = Literal["none", "bnb4", "bnb8", "torchao_int8"]
"""How weights of linear layers are stored: as the others, by bitsandbytes in 4 (NF4) or 8 bits, or
by torchao in 8 bits."""


@dataclass(frozen=True)
class WithinOrAuto(Within):
    """A whole number in a range, or `auto`."""

    def broken(self, value: Any, kind: Any) -> str | None:
        fault = None if value == "auto" else super().broken(value, int)
        return fault and f"{fault}, or auto"


@dataclass(frozen=True)
class Saving:
    """How a loaded model saves GPU memory. The defaults save nothing.

    Attributes:
        attention_slicing: attention of a U-Net in two parts, one after the other.
        vae_slicing: pictures are decoded one after the other; vae_tiling: in overlapping tiles.
        gguf: a GGUF file with the denoiser's weights.

    Raises:
        UserError: choices that do not go together.
    """

    offload: Offload = "none"
    attention_slicing: bool = False
    vae_slicing: bool = False
    vae_tiling: bool = False
    quantization: Quantization = "none"
    gguf: str | None = None

    def __post_init__(self) -> None:
        together(self.faults())

    def faults(self) -> Iterator[str]:
        """What does not go together."""
        if self.quantized and self.offload in ("sequential", "group"):
            chosen = (
                f"model.gguf={self.gguf}"
                if self.gguf
                else f"model.quantization={self.quantization}"
            )
            yield (
                f"model.offload={self.offload} moves single layers, and quantised ones ({chosen})"
                " cannot be moved so; set model.offload=model"
            )
        if self.gguf is not None and not self.gguf.endswith(".gguf"):
            yield f"model.gguf={self.gguf} must be the path of a file that ends in .gguf"

    @property
    def quantized(self) -> bool:
        """Whether some weights are."""
        return self.quantization != "none" or self.gguf is not None


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
    """Of a second, unconditional pass of FLUX.1 and Qwen-Image; None: there is none."""
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
    offload: Offload
    attention_slicing: bool
    vae_slicing: bool
    vae_tiling: bool
    quantization: Quantization
    gguf: str | None
    lora: str | None
    """A safetensors file."""

    @property
    def saving(self) -> Saving:
        """How the model saves GPU memory."""
        return Saving(**{field.name: getattr(self, field.name) for field in fields(Saving)})
