"""Text edits in a pipeline of every family: every layer of every text encoder, branch by branch."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch

from diffusae.backbone.text_layers import list_text_layers, text_layer
from diffusae.capture.generate import generate
from diffusae.errors import UserError
from diffusae.interventions.steer import steer
from diffusae.interventions.text import TextEdit, steering_vectors
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK
from tiny_families import FAMILIES, PIXELS, USUAL, tiny_family

PROMPTS = ["a cat", "dogs"]
LAYERS = {
    "sd": ["text_0", "text_1"],
    "sdxl": ["text_0", "text2_0"],
    "sd3": ["text_0", "text2_0", "text3_0", "text3_1"],
    "flux": ["text_0", "text2_0", "text2_1"],
    "pixart": ["text_0", "text_1"],
}
CASES = [(family, layer) for family, layers in LAYERS.items() for layer in layers]


@pytest.fixture(scope="module")
def pipes() -> dict[str, Any]:
    return {family: tiny_family(family) for family in USUAL}


def edit_of(pipe: Any, layer: str, strength: float = 0.5, **options: Any) -> TextEdit:
    d_in = list_text_layers(pipe)[layer].d_in
    sae = SparseAutoencoder(d_in, 2 * d_in, TopK(4), seed=3)
    return TextEdit(layer, sae, "cat", strength, **options)


@contextmanager
def outputs_of(module: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """A layer's outputs as the rest of the model sees them, run by run."""
    seen: list[torch.Tensor] = []

    def hook(_module: Any, _args: Any, output: Any) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output).detach().clone())

    handle = module.register_forward_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()


def run(
    pipe: Any, family: str, edits: list[Any] | None = None, layer: str | None = None, **options: Any
) -> Any:
    """The final latents, and the layer's outputs for the prompt and the negative one."""
    asked = FAMILIES[family].asked | options
    with ExitStack() as stack:
        if edits:
            stack.enter_context(steer(pipe, edits))
        seen = stack.enter_context(outputs_of(text_layer(pipe, layer))) if layer else []
        size = {"height": PIXELS, "width": PIXELS}
        made = generate(pipe, PROMPTS, [1, 2], steps=2, decode=False, **size, **asked)
    return made.latents, seen[-2:]


def unguided(family: str) -> dict[str, Any]:
    return {"true_guidance": None} if family == "flux" else {"guidance": 1.0}


@pytest.mark.parametrize(("family", "layer"), CASES)
def test_cond_gains_what_uncond_loses_and_both_can_be_edited_alone(
    pipes, family, layer, monkeypatch
) -> None:
    pipe = pipes[family]
    if family == "sdxl":  # it replaces an empty negative prompt by zeros
        pipe.register_to_config(force_zeros_for_empty_prompt=False)
    plain, (cond, uncond) = run(pipe, family, layer=layer)
    concept = concept_output(pipe, family, layer)
    edit = edit_of(pipe, layer)
    added = 0.5 * steering_vectors(edit.sae, concept)
    assert not torch.allclose(cond, uncond, atol=1e-3)
    latents = {}
    for conditionings in (("cond",), ("uncond",), ("cond", "uncond")):
        edits = [edit_of(pipe, layer, conditionings=conditionings)]
        latents[conditionings], (of_cond, of_uncond) = run(pipe, family, edits, layer)
        torch.testing.assert_close(of_cond, cond + added * ("cond" in conditionings))
        torch.testing.assert_close(of_uncond, uncond - added * ("uncond" in conditionings))
        assert not torch.equal(latents[conditionings], plain)
    assert not torch.equal(latents[("cond",)], latents[("uncond",)])
    again, _ = run(pipe, family)
    assert torch.equal(again, plain)


def concept_output(pipe: Any, family: str, layer: str) -> torch.Tensor:
    """x_C without an edit: the layer's output when "cat" is the prompt."""
    asked = FAMILIES[family].asked
    with outputs_of(text_layer(pipe, layer)) as seen:
        generate(pipe, ["cat"], [0], steps=1, height=PIXELS, width=PIXELS, decode=False, **asked)
    return seen[0]


@pytest.mark.parametrize("family", USUAL)
def test_a_strength_of_0_leaves_the_picture_exactly_and_warns(pipes, family, caplog) -> None:
    pipe, layer = pipes[family], LAYERS[family][0]
    plain, _ = run(pipe, family)
    same, _ = run(pipe, family, [edit_of(pipe, layer, strength=0.0, conditionings=("cond",))])
    assert torch.equal(same, plain)
    assert "changed nothing: its strength is 0" in caplog.text


@pytest.mark.parametrize("family", USUAL)
def test_uncond_cannot_be_steered_without_guidance(pipes, family) -> None:
    pipe, layer = pipes[family], LAYERS[family][0]
    with pytest.raises(UserError, match=r"uncond.*without guidance"):
        run(pipe, family, [edit_of(pipe, layer)], **unguided(family))
    edits = [edit_of(pipe, layer, conditionings=("cond",))]
    steered, _ = run(pipe, family, edits, **unguided(family))
    assert not torch.equal(steered, run(pipe, family, **unguided(family))[0])


def test_zeros_instead_of_a_negative_prompt_are_named(pipes) -> None:
    pipe = pipes["sdxl"]
    pipe.register_to_config(force_zeros_for_empty_prompt=True)
    with pytest.raises(UserError, match=r"takes zeros.*give a negative prompt"):
        run(pipe, "sdxl", [edit_of(pipe, "text_0")])
    assert run(pipe, "sdxl", [edit_of(pipe, "text_0", conditionings=("cond",))])[0].isfinite().all()


@pytest.mark.parametrize("family", ["sdxl", "sd3"])
def test_a_layer_that_is_read_by_number_is_read_edited_after_a_call_without_edits(
    family, caplog
) -> None:
    """transformers records hidden states by a hook of its first call: ours must come before it."""
    pipe = tiny_family(family)
    plain, _ = run(pipe, family)
    steered, _ = run(pipe, family, [edit_of(pipe, "text2_0", conditionings=("cond",))])
    assert not torch.equal(steered, plain)
    assert "changed nothing" not in caplog.text


def test_an_edit_after_the_layer_that_is_read_changes_nothing_and_warns(pipes, caplog) -> None:
    """Stable Diffusion XL reads the last layer but one of its first encoder, nothing pooled."""
    pipe = pipes["sdxl"]
    plain, _ = run(pipe, "sdxl")
    same, _ = run(pipe, "sdxl", [edit_of(pipe, "text_1", conditionings=("cond",))])
    assert torch.equal(same, plain)
    assert "edit 0 at text_1 changed nothing" in caplog.text


def test_an_edit_of_a_skipped_layer_changes_nothing_and_warns(pipes, caplog) -> None:
    """clip_skip=1 skips both layers for the tiny prompt, none for the negative prompt."""
    pipe = pipes["sdxl"]

    def encoded(*conditionings: str) -> Any:
        with steer(pipe, [edit_of(pipe, "text_0", conditionings=conditionings)]):
            return pipe.encode_prompt("a cat", negative_prompt="dogs", clip_skip=1)

    plain = pipe.encode_prompt("a cat", negative_prompt="dogs", clip_skip=1)
    assert torch.equal(encoded("cond")[0], plain[0])
    assert "edit 0 at text_0 changed nothing" in caplog.text
    caplog.clear()
    assert not torch.equal(encoded("uncond")[1], plain[1])
    assert not caplog.text
