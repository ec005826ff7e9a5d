"""A defence that corrects guidance, where `guidance_scale` itself runs two passes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from diffusae.capture.generate import generate
from diffusae.interventions.safe_guidance import PRESETS, safe_guidance, safety_term
from flux.given_pictures import PROMPTS, SIZE
from tiny_families import T5_TOKENS
from tiny_families.chroma import chroma
from tiny_families.flux2 import TOKENS, klein
from tiny_pipeline import seeded


@pytest.mark.parametrize(("make", "text"), [(chroma, T5_TOKENS), (klein, TOKENS)])
def test_safe_guidance_is_its_formula(make: Callable[[], Any], text: int) -> None:
    """The scheduler's input at the first step, from the denoiser's own three outputs."""
    pipe = seeded(make, 0)
    outputs: list[Tensor] = []
    guided: list[Tensor] = []
    forward, step = pipe.transformer.forward, pipe.scheduler.step

    def recording_forward(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        outputs.append(output[0])
        return output

    def recording_step(output: Tensor, *args: Any, **kwargs: Any) -> Any:
        guided.append(output)
        return step(output, *args, **kwargs)

    pipe.transformer.forward, pipe.scheduler.step = recording_forward, recording_step
    asked: dict[str, Any] = {"guidance": 4.0, "text_tokens": text, **SIZE}
    with safe_guidance(pipe, "fish", PRESETS["max"], **asked):
        generate(pipe, PROMPTS, [1, 2], steps=2, decode=False, **asked)
    cond, concept, uncond = outputs[:3]
    gamma, _ = safety_term(uncond, cond, concept, torch.zeros_like(cond), PRESETS["max"])
    assert gamma.abs().max() > 1e-3
    expected = uncond + 4.0 * (cond - uncond - gamma)
    torch.testing.assert_close(guided[0], expected, rtol=1e-4, atol=1e-4)
