"""A compiled denoiser makes the same pictures, and its blocks can be hooked."""

from typing import Any

import pytest
import torch

from diffusae.backbone.compiled import compile_denoiser, compiled_layers
from diffusae.backbone.families.table import adapter_of
from diffusae.backbone.hookpoints import denoiser_of
from diffusae.capture.attention import capture_cross_attention
from diffusae.capture.generate import Generation, generate
from diffusae.interventions.edits import Edit
from diffusae.interventions.steer import steer
from tiny_families import FAMILIES, PIXELS, tiny_family


def make(pipe: Any, family: str) -> Generation:
    unit = pipe.vae_scale_factor * adapter_of(pipe).patch
    times = adapter_of(pipe).schedule(pipe.scheduler, 2, (PIXELS // unit) ** 2).tolist()
    options: dict[str, Any] = FAMILIES[family].asked | {
        "steps": 2,
        "height": PIXELS,
        "width": PIXELS,
    }
    with capture_cross_attention(pipe, times) as attention:
        made = generate(
            pipe, ["a cat"], [1], hookpoints=FAMILIES[family].hookpoints, timesteps=times, **options
        )
    assert attention.maps
    return made


@pytest.mark.parametrize("family", [pytest.param("sd", marks=pytest.mark.slow), "flux"])
def test_a_compiled_denoiser_is_hooked_and_edited_as_ever(family: str) -> None:
    """With a backend that traces the same layers but generates no code, which saves minutes."""
    pipe = tiny_family(family)
    plain = make(pipe, family)
    layers = sum(isinstance(module, compiled_layers()) for module in denoiser_of(pipe).modules())
    assert compile_denoiser(pipe, backend="eager") == layers > 0
    compiled = make(pipe, family)
    torch.testing.assert_close(compiled.latents, plain.latents, rtol=1e-4, atol=1e-4)
    assert compiled.updates.keys() == plain.updates.keys()
    for key, update in compiled.updates.items():
        torch.testing.assert_close(update, plain.updates[key], rtol=1e-3, atol=1e-3)
    edit = Edit(FAMILIES[family].blocks["mid"][0], lambda updates, _grid: -updates)
    with steer(pipe, [edit]) as steering:
        edited = make(pipe, family)
    assert steering.steps == {0: 2}
    assert not torch.allclose(edited.latents, compiled.latents, atol=1e-3)


@pytest.mark.slow
def test_every_shape_is_compiled_once_however_many_there_are() -> None:
    """More variants than torch's own limit are compiled, and none again at the second call."""
    graphs: list[int] = []

    def counting(graph: Any, _inputs: Any) -> Any:
        graphs.append(1)
        return graph.forward

    pipe = tiny_family("sd")
    denoiser: Any = denoiser_of(pipe)
    compile_denoiser(pipe, backend=counting)
    words = torch.zeros(1, 16, 32)
    with torch.no_grad():
        for size in range(8, 28, 2):  # ten sizes, each a variant of every layer
            denoiser(torch.zeros(1, 4, size, size), 1, words)
        first = len(graphs)
        for size in range(8, 28, 2):
            denoiser(torch.zeros(1, 4, size, size), 1, words)
    assert first > 3 * 10
    assert len(graphs) == first


@pytest.mark.slow
def test_generated_code_makes_the_same_picture() -> None:
    pipe = tiny_family("sd")
    plain = make(pipe, "sd")
    compile_denoiser(pipe)
    torch.testing.assert_close(make(pipe, "sd").latents, plain.latents, rtol=1e-3, atol=1e-3)
