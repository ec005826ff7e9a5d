"""Defences behind one interface, and guided predictions under them."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from diffusae.capture.generate import generate
from diffusae.errors import UserError
from diffusae.interventions.defences import (
    NEGATIVE_PROMPT,
    WORD_REMOVAL,
    Defence,
    filtered,
    negative_prompt,
    no_defence,
    safe,
    steered_trajectory,
    text_edit,
    word_removal,
)
from diffusae.interventions.guided_prediction import GuidedPredictions, mean_squared_differences
from diffusae.interventions.text import TextEdit
from diffusae.sae.autoencoder import SparseAutoencoder
from diffusae.sae.sparsity import TopK

CALL: dict[str, Any] = {"guidance": 5.0, "height": 16, "width": 16}


def drawn(pipe: Any, defence: Defence, prompt: str = "a cat") -> torch.Tensor:
    texts, negative = [defence.rewrite(prompt)], defence.negative_prompt
    with defence.around(pipe):
        made = generate(pipe, texts, [3], steps=3, negative_prompt=negative, decode=False, **CALL)
    return made.latents


def every_defence() -> list[Defence]:
    sae = SparseAutoencoder(32, 64, TopK(4), seed=0)
    return [
        negative_prompt("cat"),
        word_removal(lambda text: text.replace(" cat", "")),
        *safe("cat", ["max"], **CALL),
        *filtered(["cat"], [50.0]),
        *steered_trajectory("cat", [1.0], sigma=8.0, **CALL),
        *text_edit(lambda strength: TextEdit("text_0", sae, "cat", strength), [0.5]),
    ]


def test_every_defence_changes_the_picture_and_leaves_the_pipeline_as_it_was(pipe):
    plain = drawn(pipe, no_defence())
    for defence in every_defence():
        assert not torch.equal(drawn(pipe, defence), plain), defence.name
        assert torch.equal(drawn(pipe, no_defence()), plain), defence.name


def test_a_negative_prompt_is_the_pipelines_own(pipe):
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    wanted = pipe(
        ["a cat"],
        negative_prompt=["dogs"],
        num_inference_steps=3,
        guidance_scale=5.0,
        latents=latents,
        output_type="latent",
    ).images
    assert torch.equal(drawn(pipe, negative_prompt("dogs")), wanted)
    assert negative_prompt("x").name == NEGATIVE_PROMPT


def test_only_word_removal_leaves_other_prompts_alone():
    alone = [defence.name for defence in every_defence() if defence.only_words]
    assert alone == [WORD_REMOVAL]
    assert no_defence().only_words


def predictions(pipe: Any) -> GuidedPredictions:
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    return GuidedPredictions(pipe, latents, [1, 2], steps=3, batch_size=3, **CALL)


def test_a_guided_prediction_is_the_two_branches_combined_on_the_noised_picture(pipe):
    made = predictions(pipe)
    (guided,) = made([["a cat", "dogs"]], no_defence())
    pipe.scheduler.set_timesteps(3)
    states = [pipe.encode_prompt(text, pipe.device, 1, False)[0] for text in ("", "dogs")]
    for step, t in enumerate(pipe.scheduler.timesteps):
        noised = pipe.scheduler.add_noise(made.latents[1:], made.noise[1:], t[None])
        with torch.no_grad():
            uncond, cond = (
                pipe.unet(noised, t, encoder_hidden_states=state).sample for state in states
            )
        expected = uncond + 5.0 * (cond - uncond)
        torch.testing.assert_close(guided[1, step][None], expected, rtol=1e-3, atol=1e-3)
    assert "step" not in vars(pipe.scheduler)


def test_predictions_of_a_case_do_not_depend_on_the_batches(pipe):
    made = predictions(pipe)
    cases = [["a cat", "dogs"], ["dogs", "dogs"], ["a", "b"]]
    guided = made(cases, every_defence()[0])
    assert guided.shape == (3, 2, 3, 4, 8, 8)
    for case, alone in zip(cases, guided, strict=True):
        torch.testing.assert_close(made([case], every_defence()[0])[0], alone, rtol=1e-4, atol=1e-4)


def test_the_objective_is_0_only_for_the_targets_own_prompt_without_a_defence(pipe):
    made = predictions(pipe)
    wanted = made([["a cat", "a cat"]], no_defence())
    losses = mean_squared_differences(made([["a cat", "a cat"], ["b", "b"]], no_defence()), wanted)
    assert losses[0] < 1e-9 < losses[1]
    removal = every_defence()[1]
    assert mean_squared_differences(made([["a cat", "a cat"]], removal), wanted)[0] > 1e-9


def test_a_scheduler_that_noises_otherwise_is_refused():
    pipe = SimpleNamespace(scheduler=object())
    with pytest.raises(UserError, match="does not noise as DDIM"):
        GuidedPredictions(pipe, torch.zeros(1, 4, 8, 8), [0], steps=1, batch_size=1)
