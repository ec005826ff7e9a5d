"""How fast this machine generates and trains, measured on a few steps."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from diffusae.activations.settings import ActivationSettings
from diffusae.backbone.settings import ModelSettings
from diffusae.capture.generate import generate
from diffusae.sae.module import adam
from diffusae.sae.replay import WARM_UP
from diffusae.study.model import load_model, sampling
from diffusae.study.pictures_at_once import pictures_at_once
from diffusae.study.study import Study
from diffusae.training.train import module_of

_FEW, _MORE = 1, 3
"""Sampling steps of the two generations that are compared."""

_TRAINING_STEPS = 20


def seconds_per_picture(study: Study) -> float:
    """Seconds of one picture of a whole batch, with all steps and decoding, extrapolated from two
    short generations.

    The difference between them is what steps cost; the rest (text encoder, decoder) comes once.
    Recording is left out: it is short beside the steps.
    """
    model = ModelSettings.of(study.cfg)
    device = _device()
    pipe = load_model(model)
    batch = study.prompts[: pictures_at_once(model, pipe)]

    def make(steps: int) -> None:
        generate(
            pipe,
            [prompt.text for prompt in batch],
            [prompt.seed for prompt in batch],
            **sampling(model, steps=steps),
        )

    make(_FEW)  # the first call is slower than all others
    few, more = _timed(lambda: make(_FEW), device), _timed(lambda: make(_MORE), device)
    step = max(more - few, 0.0) / (_MORE - _FEW)
    return (few + (model.steps - _FEW) * step) / len(batch)


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


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _timed(work: Callable[[], None], device: str) -> float:
    """Seconds of `work`, the accelerator's queue included."""
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
