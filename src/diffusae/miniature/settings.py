"""Settings of the miniature: how its parts are trained, and how it is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from diffusae.settings import Settings, Within

Count = Annotated[int, Within(1, 10**9)]
SomeSteps = Annotated[int, Within(0, 10**9)]


@dataclass(frozen=True, kw_only=True)
class MiniatureSettings(Settings, part=""):
    """`conf/miniature.yaml`."""

    part: Literal["all", "autoencoder", "annotator", "denoiser", "assemble", "gate", "table"]
    folder: str
    """Where the pipeline folder is written, and read to be measured."""
    directory: str
    """Of the pool of scenes, checkpoints, latents, figures and the contact sheet."""
    gates: list[str]
    """Directories whose gate.json the part `table` lays side by side."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(Settings, part="training"):
    """The training of the parts, one after the other."""

    world: Literal["shapes", "scenes"]
    """The world of the scenes: `worlds.py`."""
    scenes: Count
    """Of the pool."""
    latent_channels: Count
    """Numbers of the autoencoder for a square of 4 x 4 pixels."""
    denoiser: Literal["unet", "dit"]
    """A U-Net of Stable Diffusion's kind, or a transformer of PixArt's."""
    schedule: Literal["plain", "shifted"]
    """The noise schedule: `schedule.py`."""
    skip_drop: Annotated[float, Within(0, 1)]
    """The share of training samples for which a block of the U-Net's way up has no skips."""
    autoencoder_steps: SomeSteps
    annotator_steps: SomeSteps
    denoiser_steps: SomeSteps
    batch_size: Count
    """Of the denoiser; the other parts have batches of their own."""
    learning_rate: Annotated[float, Within(1e-12, 1e3)]
    seed: Annotated[int, Within(0, 2**32 - 1)]
    start_from: str | None
    """A pipeline folder with the first weights, such as the shipped one; a part of 0 steps is taken
    from it unchanged. None: random weights."""
    parts_from: str | None
    """The directory of another training, whose pool, autoencoder, latents and annotator are used;
    None: these are made too."""
    accelerator: str
    """As in Lightning; the stage asks `jobs.processes.device_fault`."""
    workers: Annotated[int, Within(1, 1000)]
    """Processes that draw the pool."""


@dataclass(frozen=True, kw_only=True)
class GateSettings(Settings, part="gate"):
    """The pictures by which the miniature is measured."""

    guidance: Annotated[float, Within(0, 100)]
    steps: Annotated[int, Within(1, 1000)]
    batch_size: Count
    pictures: Count
    exchanges: Count
    """Captions for each decision time."""
