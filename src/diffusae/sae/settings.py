"""Settings of an autoencoder and of its training, and the names that they may take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from diffusae.settings import Given, Settings, Within, is_number

InputScaling = Literal["none", "mean_norm", "standardise"]
InitialBias = Literal["geometric_median", "mean", "zero"]
DecoderNorm = Literal["unit", "free"]
SelectionPrecision = Literal["float32", "bfloat16", "int8"]
KernelsName = Literal["dense", "torch", "triton"]
Accelerator = Literal["auto", "cpu", "gpu", "cuda", "mps"]
ACCELERATORS: tuple[str, ...] = get_args(Accelerator)
FormatName = Literal["sae_lens", "eai_sparsify"]
"""A library whose files are written and read."""
ForeignFormatName = Literal[
    FormatName, "sdxl_unbox", "steerers", "saeuron", "revelio", "overcomplete", "diffract"
]
"""A format that is read."""

Steps = Annotated[int, Within(1, 10**9)]
SomeSteps = Annotated[int, Within(0, 10**9)]


class Betas:
    """The rule of Adam's two decay rates."""

    def broken(self, value: Any, kind: type) -> str | None:
        two = isinstance(value, Sequence) and len(value) == 2
        if two and all(is_number(beta) and 0 <= beta < 1 for beta in value):
            return None
        return "must be two numbers from 0 to below 1"


@dataclass(frozen=True, kw_only=True)
class SaeSettings(Settings, part="sae"):
    """One autoencoder and its optimiser (`conf/sae`)."""

    target: str | None
    """What a transcoder reconstructs (`study.streams.target_block`); None: its own input."""
    sparsity: Mapping[str, Any]
    """The class of the sparsity and its arguments, for `study.building`."""
    d_sae: Annotated[int, Within(1, 10**7)]
    encoder_bias: bool
    selection_precision: Literal["auto", SelectionPrecision]
    encoder_norm: Annotated[float, Within(1e-9, 10**9)]
    input_scaling: InputScaling
    initial_bias: InitialBias
    decoder_norm: DecoderNorm
    lr: Annotated[float, Within(1e-12, 1e3)]
    adam_betas: Annotated[tuple[float, float], Betas()]
    adam_epsilon: Annotated[float, Within(1e-30, 1)]
    aux_coefficient: Annotated[float, Within(0, 1e6)]
    k_aux: Annotated[int, Within(0, 10**7)]
    dead_after_vectors: Annotated[int, Within(1, 10**15)]
    warmup_steps: SomeSteps
    decay_steps: SomeSteps
    gradient_clip: Annotated[float, Within(1e-9, 10**9)] | None
    """The greatest norm of the whole gradient; None: no clipping."""
    ema: Annotated[float, Within(0, 1 - 1e-9)] | None
    """Share of the old weights in a moving average; None: the last weights are saved."""


@dataclass(frozen=True, kw_only=True)
class ActiveLatents(Settings, part="sae"):
    """Of sparsities that choose the largest pre-activations: how many of a vector."""

    k: Annotated[int, Within(1, 10**7)]


@dataclass(frozen=True, kw_only=True)
class TrainerSettings(Settings, part="trainer"):
    """The training of one autoencoder (`conf/trainer`)."""

    steps: Steps
    validate_every: Steps
    checkpoint_every: Steps
    log_every: Steps
    accelerator: Accelerator
    devices: Annotated[int, Within(1, 10**4)]
    """Processes of one machine. They share every batch, or divide the streams (`train_online`) or
    the latents (`shard_latents`).
    """
    num_nodes: Annotated[int, Within(1, 10**4)]
    """Machines."""
    kernels: Literal["auto", KernelsName]
    shard_latents: bool
    """Whether processes have the same batches and different latents, not the reverse."""

    @property
    def processes(self) -> int:
        """All processes of a training."""
        return self.devices * self.num_nodes


@dataclass(frozen=True, kw_only=True)
class ExportSettings(Settings, part=""):
    """`conf/export.yaml`."""

    format: FormatName


@dataclass(frozen=True, kw_only=True)
class ImportSettings(Settings, part=""):
    """`conf/import.yaml`."""

    source: Annotated[str, Given("must be a foreign SAE; give source=DIR or source=FILE")]
    format: ForeignFormatName | None
    """None: recognised by the files."""
    another_cell: bool
    """Whether an SAE is taken that was trained on something else than the cell."""


class MomentOrAll:
    """The rule of a normalised time, or `all`."""

    def broken(self, value: Any, kind: Any) -> str | None:
        if value == "all" or (is_number(value) and 0 <= value <= 1):
            return None
        return "must be a number from 0 to 1, or all"


@dataclass(frozen=True, kw_only=True)
class StatedSettings(Settings, part="stated"):
    """What the files of a foreign SAE do not say, or say wrongly; None: as they say."""

    model: str | None
    hookpoint: str | None
    quantity: str | None
    t: Annotated[float | str, MomentOrAll()] | None
    conditioning: Literal["cond", "uncond"] | None
    k: Annotated[int, Within(1, 10**7)] | None
    threshold: Annotated[float, Within(0, 10**9)] | None
    scale: Annotated[float, Within(1e-9, 10**9)]
    """What vectors were divided by before the SAE saw them."""
    timestep: Annotated[float, Within(0, 10**6)] | None

    def said(self) -> dict[str, Any]:
        """What is stated."""
        values = {name: value for name, value in vars(self).items() if value is not None}
        return {name: value for name, value in values.items() if (name, value) != ("scale", 1.0)}
