"""SAFREE: its projections, its choice of tokens and its steps by hand, and whole calls."""

import math
from typing import Any

import pytest
import torch

from diffusae.errors import UserError
from diffusae.interventions.safree import (
    Safree,
    attenuated,
    concept_tokens,
    projection,
    safe_states,
    safree,
)
from tiny_pipeline import tiny_pipeline


def drawn(pipe: Any, prompts: list[str], steps: int = 5) -> torch.Tensor:
    start = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))[: len(prompts)]
    return pipe(
        prompts, num_inference_steps=steps, guidance_scale=5.0, latents=start, output_type="latent"
    ).images


def test_a_projection_keeps_the_span_and_removes_the_rest():
    onto = projection(torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [2.0, 3.0, 0.0]]))
    torch.testing.assert_close(onto, torch.diag(torch.tensor([1.0, 1.0, 0.0])))


def test_tokens_without_which_a_prompt_lies_farther_belong_to_the_concept():
    assert concept_tokens([1.0, 1.0, 2.0], 0.01) == [False, False, True]
    assert concept_tokens([1.0, 1.0, 1.005], 0.01) == [False, False, False]  # less than 1 % more
    assert concept_tokens([1.0, 1.0, 1.005], 0.0) == [False, False, True]
    assert concept_tokens([0.3], 0.01) == [True]


def test_the_safe_states_by_hand():
    """Space of three dimensions; the concept is the first. The prompt without its second token has
    no part of the concept left, so this token is the concept's.
    """
    concept = torch.diag(torch.tensor([1.0, 0.0, 0.0]))
    masked = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 0.0]])  # d = 1, 2: the span is dims 1 and 2
    states = torch.tensor(
        [[0.0, 1.0, 0.0], [0.0, 1.0, 1.0], [4.0, 3.0, 5.0], [1.0, 0.0, 0.0], [7.0, 7.0, 7.0]]
    )  # start, two tokens, end, padding
    safe = safe_states(states, masked, concept, Safree(gamma=10.0))
    expected = states.clone()
    expected[2] = torch.tensor([0.0, 3.0, 0.0])  # without the concept, and within the span
    torch.testing.assert_close(safe.states, expected)
    # cos of start 1, token 1/sqrt 2, token 3/sqrt 50, end 0 (nothing is left of it)
    cosine = (1 + 1 / math.sqrt(2) + 3 / math.sqrt(50)) / 4
    assert safe.share == round(10 / (1 + math.exp(cosine - 1))) / 50


def test_only_low_frequencies_that_grew_are_attenuated():
    plain = torch.zeros(1, 1, 4, 6)
    safe = torch.full((1, 1, 4, 6), 2.0)  # a mean of 2 where the plain pass has 0
    torch.testing.assert_close(attenuated(safe, plain, 0.25), torch.full((1, 1, 4, 6), 0.5))
    torch.testing.assert_close(attenuated(safe, 3 * safe, 0.25), safe)  # it did not grow
    fine = torch.tensor([1.0, -1.0]).repeat(3).expand(1, 1, 4, 6)  # the highest frequency
    torch.testing.assert_close(attenuated(fine, plain, 0.25), fine)


def test_states_change_in_the_first_steps_only_and_other_prompts_less(pipe):
    plain = drawn(pipe, ["a cat", "dogs"])
    with safree(pipe, ["cat"], Safree(gamma=50.0)):
        changed = drawn(pipe, ["a cat", "dogs"])
    assert not torch.equal(changed[0], plain[0])
    with safree(pipe, ["cat"], Safree(gamma=0.0)):
        assert torch.equal(drawn(pipe, ["a cat", "dogs"]), plain)
    assert torch.equal(drawn(pipe, ["a cat", "dogs"]), plain)


def test_pictures_of_a_call_follow_their_own_prompts(pipe):
    with safree(pipe, ["cat"], Safree(gamma=50.0)):
        together = drawn(pipe, ["a cat", "dogs"])
        alone = drawn(pipe, ["a cat"])
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-4)


def test_the_reattention_acts_on_the_ways_up_and_only_where_it_is_asked(pipe):
    pictures = {}
    for attenuation in ((), (1.0,), (0.2,)):
        with safree(pipe, ["cat"], Safree(gamma=50.0, attenuation=attenuation)):
            pictures[attenuation] = drawn(pipe, ["a cat"])
    torch.testing.assert_close(pictures[()], pictures[(1.0,)], rtol=1e-4, atol=1e-4)
    assert (pictures[(0.2,)] - pictures[()]).abs().max() > 1e-3


def test_a_call_without_text_and_another_encoder_are_refused(pipe):
    states = pipe.encode_prompt(["a cat"], "cpu", 1, True)
    with safree(pipe, ["cat"], Safree()), pytest.raises(UserError, match="give them as text"):
        pipe(
            prompt_embeds=states[0],
            negative_prompt_embeds=states[1],
            num_inference_steps=2,
            guidance_scale=5.0,
            output_type="latent",
        )
    other = tiny_pipeline()
    other.text_encoder = torch.nn.Identity()
    with pytest.raises(UserError, match="one CLIP text encoder"):
        safree(other, ["cat"], Safree())


def test_wrong_settings_are_refused():
    with pytest.raises(UserError, match=r"gamma=-1"):
        Safree(gamma=-1.0)
    with pytest.raises(UserError, match=r"attenuation=\[0\.0\]"):
        Safree(attenuation=(0.0,))
