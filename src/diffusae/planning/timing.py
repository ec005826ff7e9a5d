"""How fast this machine generates and trains, measured on a few steps."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from diffusae.activations.hashed_tar import png_bytes
from diffusae.activations.settings import ActivationSettings
from diffusae.backbone.settings import ModelSettings
from diffusae.capture.generate import Generation, generate
from diffusae.sae.module import adam
from diffusae.sae.replay import WARM_UP
from diffusae.study.model import load_model, sampling
from diffusae.study.pictures_at_once import pictures_at_once
from diffusae.study.study import Study
from diffusae.training.train import module_of

_FEW, _MORE = 1, 3
"""Sampling steps of the two generations that are compared."""

_PICTURES = 20
"""That are encoded."""

_LONGEST_S = 60.0
"""Of a batch that is made with all steps, to see what PNG makes of it."""

_TRAINING_STEPS = 20


def picture(study: Study) -> tuple[float, float | None]:
    """Seconds of one picture of a whole batch, with all steps and decoding, extrapolated from two
    short generations; and the bytes of PNG a pixel of such a batch, where it is made within
    `_LONGEST_S`.

    The difference between the short generations is what steps cost; the rest (text encoder,
    decoder) comes once. Recording is left out: it is short beside the steps.
    """
    model = ModelSettings.of(study.cfg)
    device = _device()
    pipe = load_model(model)
    batch = study.prompts[: pictures_at_once(model, pipe)]

    def make(steps: int) -> Generation:
        return generate(
            pipe,
            [prompt.text for prompt in batch],
            [prompt.seed for prompt in batch],
            **sampling(model, steps=steps),
        )

    make(_FEW)  # the first call is slower than all others
    few, more = _timed(lambda: make(_FEW), device), _timed(lambda: make(_MORE), device)
    whole = few + (model.steps - _FEW) * max(more - few, 0.0) / (_MORE - _FEW)
    png = None
    if whole <= _LONGEST_S:  # pictures of fewer steps would be smoother
        images = make(model.steps).images
        assert images is not None
        png = sum(len(png_bytes(image)) for image in images) / (images.size // 3)
    return whole / len(batch), png


def vectors_per_second(study: Study, d_in: int) -> float:
    """Vectors a second in the training of this study's SAE at width `d_in`, on random vectors.

    Reading, validation and the revival of dead latents are left out.
    """
    device = _device()
    module = module_of(study, d_in).to(device)
    generator = torch.Generator().manual_seed(study.seed)
    batch_size = ActivationSettings.of(study.cfg).batch_size
    vectors = torch.randn(batch_size, d_in, generator=generator).to(device)
    module.initialise(vectors)
    step = module.step_of(adam(module.autoencoder.parameters(), module))

    def train(steps: int) -> None:
        for _ in range(steps):
            step({"": vectors})

    train(WARM_UP + 1)
    return _TRAINING_STEPS * len(vectors) / _timed(lambda: train(_TRAINING_STEPS), device)


def encoded_per_second(study: Study, d_in: int, positions: int) -> float:
    """Vectors a second that one SAE of width `d_in` encodes, picture by picture as codes are made,
    on random vectors; copies to the device and back are counted.
    """
    device = _device()
    autoencoder = module_of(study, d_in).autoencoder.to(device)
    picture = torch.randn(positions, d_in, generator=torch.Generator().manual_seed(study.seed))

    def encode(pictures: int) -> None:
        for _ in range(pictures):
            for part in autoencoder.encode(picture.to(device)):
                part.cpu()

    encode(2)
    return _PICTURES * positions / _timed(lambda: encode(_PICTURES), device)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _timed(work: Callable[[], None], device: str) -> float:
    """Seconds of `work`, the accelerator's queue included."""
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
