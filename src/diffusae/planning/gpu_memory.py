"""How much GPU memory a model takes before it loads, for every choice of `model.offload`, and the
least slow choice that fits a card.

Weights are exact: parameters of the components by their dtype. Activations are an estimate. On the
meta device, with fused attention, so many numbers were alive at once at most (docs/models.md has
the table): 12 to 18 channels a token in a transformer, 16 and 26 at every latent position in a
U-Net (of its finest level's channels), 6 at every pixel in a VAE's decoder. `MARGIN` and `CONTEXT`
stand for what was never measured on a GPU: workspaces of libraries, and memory in pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from diffusae.activations.settings import ActivationSettings
from diffusae.activations.stored_numbers import stored_numbers
from diffusae.backbone.component_sizes import ModelSize, model_size
from diffusae.backbone.describe import Description
from diffusae.backbone.passes import BATCHED
from diffusae.backbone.settings import ModelSettings, Offload, Quantization
from diffusae.errors import UserError
from diffusae.planning.estimate import StudyEstimate
from diffusae.sae.settings import SaeSettings
from diffusae.sources import first_line
from diffusae.study.study import Study

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
QUANTIZED_BYTES: Mapping[Quantization, float] = {
    "bnb4": 0.5625,  # 4 bits, and a float32 for every 64
    "bnb8": 1.0,
    "torchao_int8": 1.0,
}
"""Of a weight of a linear layer. The scale of a whole row is left out."""
TRANSFORMER_NUMBERS, UNET_NUMBERS, DECODER_NUMBERS = 18, 26, 6
SAE_NUMBERS = 8
"""Numbers for every vector of a batch and latent. Measured on the CPU: 2 to 3 with
`trainer.kernels=torch`, 4 with `dense`, 7 with JumpReLU."""
MARGIN, CONTEXT = 1.25, 600_000_000
"""A factor of the activations, and bytes of the CUDA context: assumed."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What decides the GPU memory of a model, as `model` has it."""

    offload: Offload
    vae_slicing: bool
    vae_tiling: bool
    quantization: Quantization
    dtype: str
    batch_size: int

    @property
    def number(self) -> int:
        """Bytes of a number that is not quantised."""
        return BYTES[self.dtype]

    @classmethod
    def configured(cls, model: ModelSettings) -> Choice:
        """Where `batch_size=auto`, one picture: the least that it takes."""
        batch_size = 1 if model.batch_size == "auto" else model.batch_size
        saving = model.saving
        return cls(
            offload=saving.offload,
            vae_slicing=saving.vae_slicing,
            vae_tiling=saving.vae_tiling,
            quantization=saving.quantization,
            dtype=model.dtype,
            batch_size=batch_size,
        )

    def overrides(self, than: Choice) -> str:
        """What to add to a command with the choice `than`."""
        ours, others = vars(self), vars(than)
        changed = {name: value for name, value in ours.items() if value != others[name]}
        return " ".join(f"model.{name}={_yaml(value)}" for name, value in changed.items())


@dataclass(frozen=True)
class Need:
    """Bytes of GPU memory that a choice takes.

    Attributes:
        weights: on the GPU while the denoiser runs.
        encoding, denoising, decoding: all that is there while prompts are encoded, while the
            denoiser runs, and while pictures are decoded.
    """

    choice: Choice
    weights: int
    encoding: int
    denoising: int
    decoding: int

    @property
    def peak(self) -> int:
        """The most at any time."""
        return max(self.encoding, self.denoising, self.decoding) + CONTEXT


class GpuMemory:
    """The GPU memory of a study's model.

    Raises:
        UserError: the model's configurations, or the file of `model.gguf`, cannot be read.
    """

    def __init__(self, study: Study, description: Description, counted: StudyEstimate) -> None:
        self.model = ModelSettings.of(study.cfg)
        self.description, self.counted, self.study = description, counted, study
        self.size: ModelSize = model_size(
            self.model.source,
            revision=self.model.revision,
            architecture=self.model.architecture,
            variant=self.model.variant,
        )
        self._gguf = None if self.model.gguf is None else _bytes_of(self.model.gguf)

    def need(self, choice: Choice) -> Need:
        """What a choice takes."""
        sizes = self.size.components
        whole = {name: self._bytes(name, choice) for name in sizes}
        encoders = [name for name in sizes if name not in ("denoiser", "vae")]
        used = {name: self._used(name, whole[name], choice) for name in sizes}
        rest = sum(whole.values()) if choice.offload == "none" else 0

        def with_weights(name: str, activations: int) -> int:
            return (rest or used[name]) + round(MARGIN * activations)

        return Need(
            choice,
            weights=rest or used["denoiser"],
            encoding=max((with_weights(name, 0) for name in encoders), default=0),
            denoising=with_weights("denoiser", self._denoising(choice)),
            decoding=with_weights("vae", self._decoding(choice)),
        )

    @property
    def configured(self) -> Need:
        """What the study's own choice takes."""
        return self.need(Choice.configured(self.model))

    def choices(self) -> list[Need]:
        """The configured choice with every way to offload that goes with its quantisation."""
        own = Choice.configured(self.model)
        quantized = self.model.saving.quantized
        ways = ("none", "model") if quantized else get_args(Offload)
        return [self.need(replace(own, offload=way)) for way in ways]

    def least_slow(self, gpu_bytes: float) -> Need | None:
        """The first choice of `ever_slower` that fits; None: none does."""
        needs = (self.need(choice) for choice in self.ever_slower())
        return next((need for need in needs if need.peak <= gpu_bytes), None)

    def ever_slower(self) -> Iterator[Choice]:
        """Choices in the order of the time that they are assumed to take; then those that change
        the pictures, by fewer bits.

        Components move once a call, groups and layers at every step, layers in more copies.
        """
        own = replace(Choice.configured(self.model), offload="none")
        alone = replace(own, batch_size=1)
        sliced = replace(own, vae_slicing=own.vae_slicing or own.batch_size > 1)
        whole = [own, sliced, replace(sliced, offload="model"), alone]
        whole += [replace(alone, offload="model")]
        yield from whole
        if self.model.saving.quantized:
            return
        yield from (
            replace(one, offload=way) for one in (sliced, alone) for way in ("group", "sequential")
        )
        if own.dtype == "float32":
            yield from (replace(one, dtype="bfloat16") for one in whole)
        for quantization in ("bnb8", "bnb4"):
            for way in ("none", "model"):
                yield replace(alone, offload=way, quantization=quantization, dtype=_half(own.dtype))

    def captured(self) -> int:
        """Bytes of the updates of one batch, which wait in the CPU's memory."""
        number = stored_numbers(ActivationSettings.of(self.study.cfg).dtype).read.itemsize
        streams = (one.stream for one in self.counted.streams)
        each = sum(stream.positions * stream.d_in for stream in streams)
        return (
            Choice.configured(self.model).batch_size * each * max(number, BYTES[self.model.dtype])
        )

    def training(self) -> int:
        """Bytes that the training of the widest autoencoder takes: weights, gradients and Adam's
        two moments in float32 (and their moving average), and `SAE_NUMBERS` of a batch."""
        sae, batch = SaeSettings.of(self.study.cfg), self.counted.batch_size
        d_in = max((one.stream.d_in for one in self.counted.trained), default=0)
        weights = (4 if sae.ema is None else 5) * 4 * 2 * d_in * sae.d_sae
        activations = 4 * batch * (SAE_NUMBERS * sae.d_sae + 4 * d_in)
        return weights + round(MARGIN * activations) + CONTEXT

    def _bytes(self, name: str, choice: Choice) -> int:
        """Of a component's weights."""
        if name == "denoiser" and self._gguf is not None:
            return self._gguf
        size, kept = self.size.components[name], self.size.classes[name].startswith("CLIP")
        kept = kept or name == "vae" or choice.quantization == "none"
        linear = 0 if kept else size.linear
        stored = QUANTIZED_BYTES.get(choice.quantization, 0) * linear
        return round((size.parameters - linear) * choice.number + stored)

    def _used(self, name: str, whole: int, choice: Choice) -> int:
        """Of a component's weights, what is on the GPU while it computes. Group offloading moves
        blocks of the denoiser, and layers of the others."""
        size = self.size.components[name]
        match choice.offload:
            case "group" if name == "denoiser":
                return (size.outside + size.block) * choice.number
            case "group" | "sequential":
                return size.layer * choice.number
            case _:
                return whole

    def _denoising(self, choice: Choice) -> int:
        """Activations of the denoiser, a quantised layer that is decompressed, and the update of a
        block that is copied to the CPU."""
        model, described = self.model, self.description
        rows = choice.batch_size * (2 if self._one_batch else 1)
        if self.size.unet_width is not None:
            positions = model.height * model.width // described.latent_scale**2
            numbers = UNET_NUMBERS * positions * self.size.unet_width
        else:
            tokens = model.height * model.width // described.scale**2 + described.tokens
            width = max(info.d_in for info in described.hookpoints.values())
            numbers = TRANSFORMER_NUMBERS * tokens * width
        updates = [one.stream.positions * one.stream.d_in for one in self.counted.trained]
        numbers = rows * (numbers + 2 * max(updates, default=0))
        if choice.quantization != "none" or self._gguf is not None:
            numbers += self.size.components["denoiser"].layer
        return numbers * choice.number

    @property
    def _one_batch(self) -> bool:
        """Whether both branches are rows of one batch."""
        layout = self.model.guidance_layout or self.description.layout
        return layout in BATCHED and len(self.study.branches_of(layout)) > 1

    def _decoding(self, choice: Choice) -> int:
        """Activations of the VAE's decoder."""
        pictures = 1 if choice.vae_slicing else choice.batch_size
        pixels = self.model.height * self.model.width
        if choice.vae_tiling and self.size.tile is not None:
            pixels = min(pixels, self.size.tile**2)
        # Stable Diffusion XL decodes in float32, where its VAE overflows in float16.
        upcast = "XL" in self.description.pipeline and choice.dtype == "float16"
        number = 4 if upcast else choice.number
        return DECODER_NUMBERS * pictures * pixels * self.size.vae_width * number


def _bytes_of(path: str) -> int:
    try:
        return Path(path).expanduser().stat().st_size
    except OSError as error:
        raise UserError(f"model.gguf={path} cannot be read ({first_line(error)})") from error


def _half(dtype: str) -> str:
    return "bfloat16" if dtype == "float32" else dtype


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
