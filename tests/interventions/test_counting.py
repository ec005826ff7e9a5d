"""Edits act on exactly the rows of their branch: compared with a plain hook of this file."""

from typing import Any

import pytest
import torch
from torch import Tensor

from counted_pipelines import PROMPTS, arguments, as_class, longer
from diffusae.capture.replay import recorded_outputs, replayed_outputs
from diffusae.errors import UserError
from diffusae.interventions.edits import Edit, ReplaceBy
from diffusae.interventions.safe_guidance import PRESETS, safe_guidance, safety_term
from diffusae.interventions.steer import steer
from tiny_families import FAMILIES, PIXELS, USUAL, tiny_family

MID, JOINT = "mid_block.attentions.0", "transformer_blocks.1"
BOTH = ("uncond", "cond")


def edit(path: str, width: int, **options: Any) -> Edit:
    """Replaces the update by ones: easy to do by hand."""
    return Edit(path, ReplaceBy(torch.ones(width)), **options)


def by_hand(denoiser: Any, path: str, rows: Any, call: Any) -> Tensor:
    """The call's picture where a plain hook adds ones to the block's input on `rows(batch)`."""

    def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        before = args[0] if args else kwargs["hidden_states"]
        made = output if isinstance(output, Tensor) else output[-1]
        chosen, made = rows(len(made)), made.clone()
        made[chosen] = before[chosen] + 1
        return made if isinstance(output, Tensor) else (*output[:-1], made)

    handle = denoiser.get_submodule(path).register_forward_hook(hook, with_kwargs=True)
    try:
        return call().images
    finally:
        handle.remove()


@pytest.mark.parametrize("pictures", [1, 2])
@pytest.mark.parametrize("conditioning", BOTH)
def test_a_third_branch_is_left_alone(pipe, pictures: int, conditioning: str) -> None:
    pag = as_class(pipe, "StableDiffusionPAGPipeline")
    first = BOTH.index(conditioning) * pictures

    def call() -> Any:
        return pag(**arguments(pictures))

    with steer(pag, [edit(MID, 64, conditionings=(conditioning,))]):
        edited = call().images
    expected = by_hand(pipe.unet, MID, lambda _rows: slice(first, first + pictures), call)
    torch.testing.assert_close(edited, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pictures", [1, 2])
def test_a_pass_with_skipped_layers_is_left_alone(pictures: int) -> None:
    sd3 = tiny_family("sd3")
    skip = {
        "skip_guidance_layers": [1],
        "skip_layer_guidance_start": -1.0,
        "skip_layer_guidance_stop": 2.0,
    }
    path = "transformer_blocks.0"

    def call() -> Any:
        return sd3(**longer(pictures, **skip))

    with steer(sd3, [edit(path, 32)]):
        edited = call().images
    cond = slice(pictures, 2 * pictures)
    expected = by_hand(
        sd3.transformer, path, lambda rows: cond if rows > pictures else slice(0), call
    )
    torch.testing.assert_close(edited, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pictures", [1, 2])
def test_a_loop_of_ones_own_declares_its_layout_or_is_refused(pipe, pictures: int) -> None:
    latents, words = torch.randn(2 * pictures, 4, 8, 8), torch.randn(2 * pictures, 16, 32)
    pipe(**arguments(2, guidance_scale=1.0))  # tells nothing about later calls

    @torch.no_grad()
    def own() -> Tensor:
        return pipe.unet(latents, 667, words).sample

    plain = own()
    undeclared = pytest.raises(UserError, match="In a loop of your own declare")
    with undeclared, steer(pipe, [edit(MID, 64)]):
        own()
    with steer(pipe, [edit(MID, 64)], layout=BOTH):
        edited = own()
    assert torch.equal(edited[:pictures], plain[:pictures])
    assert (edited[pictures:] - plain[pictures:]).abs().amax(dim=(1, 2, 3)).min() > 1e-4
    unknown = "time 5, which is none of the timesteps of its DDIMScheduler"
    with pytest.raises(UserError, match=unknown), steer(pipe, [edit(MID, 64)], layout=BOTH):
        pipe.unet(latents, 5, words)


def test_another_pipeline_with_the_same_denoiser_is_refused(pipe) -> None:
    other = as_class(pipe, "StableDiffusionImg2ImgPipeline")
    message = "StableDiffusionImg2ImgPipeline runs the denoiser of this"
    call = {"prompt": PROMPTS, "image": torch.rand(2, 3, 16, 16), "num_inference_steps": 2}
    with pytest.raises(UserError, match=message), steer(pipe, [edit(MID, 64)]):
        other(**call, output_type="latent")


def test_an_edit_that_a_cache_skips_at_some_steps_is_named(pipe) -> None:
    block = pipe.unet.get_submodule(MID)
    own, kept = block.forward, []

    def forward(*args: Any, **kwargs: Any) -> Any:
        kept.append(own(*args, **kwargs) if len(kept) % 2 == 0 else kept[-1])
        return kept[-1]

    block.forward = forward
    try:
        message = r"did not run, .* at timestep 334 for pictures 0 to 1"
        with pytest.raises(UserError, match=message), steer(pipe, [edit(MID, 64)]):
            pipe(**arguments(2))
        kept.clear()
        # The block runs at the first step, the only one in this window.
        with steer(pipe, [edit(MID, 64, window=(1.0, 0.9))]) as steering:
            pipe(**arguments(2))
        assert steering.steps == {0: 1}
    finally:
        del block.forward


def test_a_repeated_timestep_keeps_its_time(pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """PNDM runs one timestep twice: t is 1 - i / (N - 1) over the different timesteps."""
    from diffusers.schedulers.scheduling_pndm import PNDMScheduler

    own = PNDMScheduler.from_config(pipe.scheduler.config, skip_prk_steps=True)
    monkeypatch.setattr(pipe, "scheduler", own)
    with steer(pipe, [edit(MID, 64, window=(0.5, 0.5))]) as steering:
        pipe(**arguments(1))
    assert pipe.scheduler.timesteps.tolist() == [667, 334, 334, 1]
    assert steering.steps == {0: 2}


@pytest.mark.parametrize("pictures", [1, 2])
@pytest.mark.parametrize("name", USUAL)
def test_safe_guidance_is_its_formula_in_every_family(name: str, pictures: int) -> None:
    """The scheduler's input at the first step, from the denoiser's own three outputs."""
    pipe, asked, two = tiny_family(name), FAMILIES[name].asked, name == "flux"
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    call = longer(pictures, latents=None, guidance_scale=asked["guidance"])
    if name in ("sd", "sdxl"):
        call.pop("max_sequence_length")
    if name == "pixart":
        call |= {"use_resolution_binning": False, "clean_caption": False}
    if two:
        call |= {"true_cfg_scale": asked["true_guidance"], "negative_prompt": [""] * pictures}
    outputs, guided = [], []
    forward, step = denoiser.forward, pipe.scheduler.step

    def recording_forward(*args: Any, **kwargs: Any) -> Any:
        outputs.append(forward(*args, **kwargs))
        return outputs[-1]

    def recording_step(model_output: Tensor, *args: Any, **kwargs: Any) -> Any:
        guided.append(model_output)
        return step(model_output, *args, **kwargs)

    denoiser.forward, pipe.scheduler.step = recording_forward, recording_step
    with safe_guidance(pipe, "dogs", PRESETS["max"], height=PIXELS, width=PIXELS, **asked):
        pipe(**call | {"generator": torch.Generator().manual_seed(3)})
        again = len(guided)
        pipe(**call | {"generator": torch.Generator().manual_seed(3)})
    first, second, third = (output[0] for output in outputs[:3])
    uncond, cond, concept = (third, first, second) if two else (*first.chunk(2), second)
    gamma, _ = safety_term(uncond, cond, concept, torch.zeros_like(cond), PRESETS["max"])
    expected = uncond + (asked["true_guidance"] if two else 5.0) * (cond - uncond - gamma)
    torch.testing.assert_close(guided[0], expected[:, : guided[0].shape[1]], rtol=1e-4, atol=1e-4)
    assert gamma.abs().max() > 1e-3
    # The momentum starts again with a call.
    for one, other in zip(guided[:again], guided[again:], strict=True):
        torch.testing.assert_close(one, other)
    assert vars(denoiser)["forward"] is recording_forward


def test_two_passes_guide_as_one_batch_does() -> None:
    """u + g gamma / (g - 1) in u's place: u' + g (c - u') = u + g (c - u - gamma)."""
    u, c, gamma, g = 0.3, 0.9, 0.2, 5.0
    moved = u + g / (g - 1) * gamma
    assert moved + g * (c - moved) == pytest.approx(u + g * (c - u - gamma))


@pytest.mark.parametrize("context", ["replay", "safe guidance"])
def test_a_wrapper_of_the_denoiser_is_still_in_place_afterwards(pipe, context: str) -> None:
    """Offloading wraps a module's forward in this way."""
    with recorded_outputs(pipe) as outputs:
        pipe(**arguments(2))
    own, runs = pipe.unet.forward, []

    def offloading(*args: Any, **kwargs: Any) -> Any:
        runs.append(1)
        return own(*args, **kwargs)

    pipe.unet.forward = offloading
    try:
        with (
            replayed_outputs(pipe, outputs, list(outputs)[:1])
            if context == "replay"
            else safe_guidance(pipe, "cat", PRESETS["max"], guidance=5.0, height=16, width=16)
        ):
            pipe(**arguments(2))
        assert vars(pipe.unet)["forward"] is offloading
        assert len(runs) == (2 if context == "replay" else 6)
    finally:
        del pipe.unet.forward


def test_a_text_instead_of_conditionings_is_refused() -> None:
    with pytest.raises(UserError, match="conditionings='cond' is one text"):
        edit(MID, 64, conditionings="cond")
