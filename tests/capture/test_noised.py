"""Given pictures in a pipeline of every family: updates equal those of a generation run."""

from typing import Any

import numpy as np
import pytest
import torch

from diffusae.backbone.families.table import adapter_of
from diffusae.backbone.latents import encode_pictures
from diffusae.backbone.noising import noised
from diffusae.capture.generate import call_options, first_latents
from diffusae.capture.hooks import capture_updates
from diffusae.capture.noised import capture_noised, prompted
from diffusae.errors import UserError
from tiny_families import FAMILIES, PIXELS, tiny_family

STEPS, SEEDS = 3, (11, 12)
SIZE = {"height": PIXELS, "width": PIXELS}


@pytest.fixture(scope="module")
def pipe(family: str) -> Any:
    return tiny_family(family)


@pytest.fixture(scope="module")
def latents(pipe: Any) -> torch.Tensor:
    pictures = np.random.default_rng(0).integers(0, 256, (2, PIXELS, PIXELS, 3), dtype=np.uint8)
    return encode_pictures(pipe, torch.from_numpy(pictures), batch_size=2)


def times_of(pipe: Any) -> list[float]:
    adapter = adapter_of(pipe)
    unit = pipe.vae_scale_factor * adapter.patch
    return adapter.schedule(pipe.scheduler, STEPS, (PIXELS // unit) ** 2).tolist()


def captured(
    pipe: Any, family: str, latents: torch.Tensor, prompt: str = "", **options: Any
) -> Any:
    given = prompted(pipe, prompt, **FAMILIES[family].asked, **SIZE)
    wanted = {"hookpoints": FAMILIES[family].hookpoints, "timesteps": times_of(pipe)}
    return capture_noised(pipe, latents, SEEDS, given, **wanted | options)


def in_a_generation(pipe: Any, family: str, latents: torch.Tensor, prompt: str) -> Any:
    """Updates in a call whose latents are those of the noised pictures at every step."""
    adapter, asked = adapter_of(pipe), dict(FAMILIES[family].asked)
    times = times_of(pipe)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    noise = first_latents(
        generators, **dict(zip(("channels", "height", "width"), latents.shape[1:], strict=True))
    )
    seen = [adapter.pack(noised(pipe.scheduler, latents, noise, t)) for t in times] + [
        adapter.pack(latents)
    ]
    callback: dict[str, Any] = {
        "callback_on_step_end": lambda _p, i, _t, _k: {"latents": seen[i + 1]}
    }
    if family == "pixart":  # which has only the older callback: one call a step
        callback = {"callback": lambda i, _t, now: now.copy_(seen[i + 1])}
    tokens = asked.pop("text_tokens", None)
    with capture_updates(pipe, FAMILIES[family].hookpoints, times) as got:
        pipe(
            prompt=[prompt] * 2,
            num_inference_steps=STEPS,
            latents=seen[0],
            output_type="latent",
            **SIZE,
            **adapter.guidance(asked["guidance"], asked.get("true_guidance"), 2),
            **call_options(pipe, text_tokens=tokens),
            **callback,
        )
    return got.updates


@pytest.mark.parametrize(("prompt", "branch"), [("", "uncond"), ("a cat", "cond")])
def test_a_given_pictures_updates_are_those_of_a_generation_run_with_its_latents(
    pipe: Any, family: str, latents: torch.Tensor, prompt: str, branch: str
) -> None:
    ours, theirs = (
        captured(pipe, family, latents, prompt),
        in_a_generation(pipe, family, latents, "a cat"),
    )
    assert set(ours) == {(block, t) for block, t, _ in theirs}
    for (block, t), update in ours.items():
        torch.testing.assert_close(update, theirs[block, t, branch], rtol=1e-4, atol=1e-5)
    first, last = times_of(pipe)[0], times_of(pipe)[-1]
    assert (ours["mid", first] - ours["mid", last]).abs().max() > 1e-3  # times are told apart


def test_outputs_and_means_over_positions_are_what_they_say(
    pipe: Any, family: str, latents: torch.Tensor
) -> None:
    outputs = {block: f"{path}:after" for block, path in FAMILIES[family].hookpoints.items()}
    update, output = (
        captured(pipe, family, latents),
        captured(pipe, family, latents, hookpoints=outputs),
    )
    pooled = captured(pipe, family, latents, hookpoints=outputs, pooled=True)
    for key, whole in output.items():
        assert whole.shape == update[key].shape == (2, *update[key].shape[1:])
        assert (whole - update[key]).abs().max() > 1e-3  # the block's input is in it
        assert pooled[key].shape == (2, 1, whole.shape[2])
        torch.testing.assert_close(pooled[key][:, 0], whole.float().mean(dim=1))


def test_each_picture_has_its_own_noise_whatever_batch_it_is_in(
    pipe: Any, family: str, latents: torch.Tensor
) -> None:
    together = captured(pipe, family, latents)
    given = prompted(pipe, "", **FAMILIES[family].asked, **SIZE)
    alone = capture_noised(
        pipe,
        latents[1:],
        SEEDS[1:],
        given,
        hookpoints=FAMILIES[family].hookpoints,
        timesteps=times_of(pipe),
    )
    for key, update in alone.items():
        torch.testing.assert_close(update[0], together[key][1], rtol=1e-4, atol=1e-5)


def test_a_model_that_runs_unguided_still_takes_the_empty_prompt_as_its_unconditional_branch() -> (
    None
):
    # Whose unconditional branch is zeros, not the empty caption's states
    pipe = tiny_family("sdxl")
    asked = {"guidance": 0.0, **SIZE}
    states = prompted(pipe, "", **asked)(2)["encoder_hidden_states"]
    assert states.shape[0] == 2 and not states.any()
    assert prompted(pipe, "a cat", **asked)(2)["encoder_hidden_states"].any()


def test_seeds_that_do_not_match_the_pictures_are_refused(pipe: Any, latents: torch.Tensor) -> None:
    with pytest.raises(UserError, match="2 pictures have 1 seeds"):
        capture_noised(pipe, latents, [1], lambda _: {}, hookpoints={"mid": 0}, timesteps=[1.0])


@pytest.mark.parametrize("name", ["sd", "sd3"])
def test_noising_is_the_schedulers_own(name: str) -> None:
    scheduler = tiny_family(name).scheduler
    latents, noise = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), -1.0)
    if name == "sd3":  # a straight line: a quarter of the way
        assert noised(scheduler, latents, noise, 250.0).item() == pytest.approx(0.75 * 2 - 0.25)
    else:
        kept = scheduler.alphas_cumprod[500].item()
        expected = kept**0.5 * 2 - (1 - kept) ** 0.5
        assert noised(scheduler, latents, noise, 500.0).item() == pytest.approx(expected, rel=1e-5)
