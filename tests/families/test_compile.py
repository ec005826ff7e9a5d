"""A compiled denoiser (`model.compile=true`) makes the same pictures, and its blocks are hooked."""

import pytest
import torch

from diffusae.backbone.compiled import compile_denoiser, compiled_layers
from diffusae.interventions.steer import steer
from families.running import Case
from families.test_edit import edit_of

pytestmark = pytest.mark.slow


def test_a_compiled_denoiser_is_captured_and_edited_as_ever(case: Case) -> None:
    """With a backend that traces the same layers but generates no code, which saves minutes."""
    other = Case(case.name)
    layers = sum(isinstance(module, compiled_layers()) for module in other.denoiser.modules())
    assert compile_denoiser(other.pipe, backend="eager") == layers > 0
    compiled = other.record()
    torch.testing.assert_close(compiled.latents, case.plain.latents, rtol=1e-4, atol=1e-4)
    assert compiled.updates.keys() == case.plain.updates.keys()
    for key, update in compiled.updates.items():
        torch.testing.assert_close(update, case.plain.updates[key], rtol=1e-3, atol=1e-3)
    with steer(case.pipe, [edit_of(case, ["cond"])]):
        expected = case.make()
    with steer(other.pipe, [edit_of(other, ["cond"])]) as steering:
        edited = other.make()
    assert steering.steps == {0: 1}
    torch.testing.assert_close(edited.latents, expected.latents, rtol=1e-3, atol=1e-3)
