import math

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler

from counted_pipelines import as_class
from diffusae.backbone.latents import encode_pictures
from diffusae.backbone.text_layers import list_text_layers
from diffusae.capture.generate import Generation, generate, to_uint8
from diffusae.capture.hooks import hook_blocks
from diffusae.capture.noised import capture_noised, prompted
from diffusae.capture.text import capture_text
from diffusae.errors import UserError
from tiny_pipeline import HOOKPOINTS

PROMPTS = ["a cat", "dogs", "a bee on a car"]
SEEDS = [5, 6, 7]


def _generate(pipe, prompts=PROMPTS, seeds=SEEDS, **options) -> Generation:
    options = {
        "steps": 3,
        "guidance": 5.0,
        "hookpoints": HOOKPOINTS,
        "timesteps": (667, 1),
    } | options
    return generate(pipe, prompts, seeds, **options)


def _images(made: Generation) -> np.ndarray:
    assert made.images is not None
    return made.images


def test_shapes_and_types(pipe) -> None:
    made = _generate(pipe)
    assert _images(made).shape == (3, 16, 16, 3) and _images(made).dtype == np.uint8
    assert made.latents.shape == (3, 4, 8, 8) and made.latents.dtype == torch.float32
    assert made.grids == {"down": (8, 8), "mid": (4, 4), "up": (8, 8)}
    assert {
        key: tuple(update.shape) for key, update in made.updates.items() if key[0] == "mid"
    } == {
        ("mid", t, conditioning): (3, 16, 64)
        for t in (667, 1)
        for conditioning in ("cond", "uncond")
    }
    assert made.nonfinite == {}


def test_pictures_are_those_of_the_pipeline_itself(pipe) -> None:
    latents = torch.stack(
        [torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in SEEDS]
    )
    options = {"num_inference_steps": 3, "guidance_scale": 5.0}
    stock, last = (
        pipe(PROMPTS, latents=latents.clone(), output_type=kind, **options).images
        for kind in ("pil", "latent")
    )
    made = _generate(pipe)
    assert np.array_equal(_images(made), np.stack([np.asarray(image) for image in stock]))
    assert torch.equal(made.latents, last)


def test_recording_changes_no_picture(pipe) -> None:
    made, plain = _generate(pipe), _generate(pipe, hookpoints=None, timesteps=())
    assert np.array_equal(_images(made), _images(plain)) and torch.equal(
        made.latents, plain.latents
    )
    assert plain.updates == {} and plain.grids == {}


def test_nothing_is_decoded_when_decoding_is_off(pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _generate(pipe)

    def decode(*_args, **_kwargs):
        raise AssertionError("the decoder ran")

    monkeypatch.setattr(pipe.vae, "decode", decode)
    made = _generate(pipe, decode=False)
    assert made.images is None
    assert torch.equal(made.latents, whole.latents)
    with pytest.raises(AssertionError, match="the decoder ran"):
        _generate(pipe)


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
def test_a_picture_depends_neither_on_its_place_nor_on_its_batch(
    pipe, monkeypatch: pytest.MonkeyPatch, scheduler: str
) -> None:
    """Up to rounding, since another batch size may sum in another order. DDPM draws noise per
    step."""
    if scheduler == "ddpm":
        ddpm = DDPMScheduler.from_config(pipe.scheduler.config)
        monkeypatch.setattr(pipe, "scheduler", ddpm)
    batch = _generate(pipe)
    backwards = _generate(pipe, PROMPTS[::-1], SEEDS[::-1])
    for i in range(3):
        alone = _generate(pipe, PROMPTS[i : i + 1], SEEDS[i : i + 1])
        for other, row in ((alone, 0), (backwards, 2 - i)):
            torch.testing.assert_close(other.latents[row], batch.latents[i], rtol=1e-4, atol=1e-4)
            assert np.abs(_images(other)[row].astype(int) - _images(batch)[i]).max() <= 1
            for key, update in batch.updates.items():
                torch.testing.assert_close(other.updates[key][row], update[i], rtol=1e-4, atol=1e-4)
    assert (batch.latents[0] - batch.latents[1]).abs().max() > 0.1


def test_the_same_seeds_give_the_same_bits_and_others_do_not(pipe) -> None:
    torch.manual_seed(1)
    first = _generate(pipe)
    torch.manual_seed(2)
    assert torch.equal(_generate(pipe).latents, first.latents)
    assert not torch.equal(_generate(pipe, seeds=[5, 6, 8]).latents[2], first.latents[2])


def test_height_and_width_are_in_pixels(pipe) -> None:
    made = _generate(pipe, width=32)  # the height stays the model's
    assert _images(made).shape == (3, 16, 32, 3)
    assert made.latents.shape == (3, 4, 8, 16)
    assert made.grids["mid"] == (4, 8)


def test_progress_is_told_each_step(pipe) -> None:
    steps: list[int] = []
    _generate(pipe, progress=steps.append)
    assert steps == [0, 1, 2]


def test_updates_can_be_kept_in_half(pipe) -> None:
    assert {
        update.dtype for update in _generate(pipe, update_dtype=torch.float16).updates.values()
    } == {torch.float16}


def test_without_guidance_cond_alone_is_recorded_and_uncond_explained_before_anything_runs(
    pipe,
) -> None:
    made = _generate(pipe, guidance=1.0, conditionings=["cond"])
    assert {key[2] for key in made.updates} == {"cond"}
    steps: list[int] = []
    with pytest.raises(UserError, match="no uncond branch"):
        _generate(pipe, guidance=1.0, timesteps=(1,), progress=steps.append)
    assert steps == []


def test_a_nonfinite_update_is_named_with_its_picture(pipe) -> None:
    def poison(_block, _t, update):
        change = torch.zeros_like(update)
        change[4, 0, 0] = float("inf")  # rows 3, 4, 5 are the cond half
        return change

    with hook_blocks(pipe, {"mid": HOOKPOINTS["mid"]}, poison, timesteps=[1]):
        made = _generate(pipe, hookpoints={"mid": HOOKPOINTS["mid"]})
    assert made.nonfinite == {1: ["mid at timestep 1, cond", "final latents", "decoded picture"]}
    assert made.updates["mid", 1, "cond"][1, 0, 0].isinf()


def test_a_scheduler_that_visits_a_timestep_twice_is_refused(
    pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        pipe, "scheduler", PNDMScheduler.from_config(pipe.scheduler.config, skip_prk_steps=True)
    )
    with pytest.raises(UserError, match="mid ran 2 times at timestep 334"):
        _generate(pipe, hookpoints={"mid": HOOKPOINTS["mid"]}, timesteps=[334])


def test_out_of_memory_names_the_batch_size_to_try(pipe) -> None:
    def exhaust(_index: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(UserError, match=r"3 pictures at once.* try a batch size of 1"):
        _generate(pipe, progress=exhaust)


def test_every_faulty_argument_is_reported_at_once(pipe) -> None:
    with pytest.raises(UserError, match="5 faults") as error:
        _generate(pipe, ["a cat"], [1, -2], steps=0, timesteps=(), width=20)
    for part in (
        "1 prompts have 2 seeds",
        "seed -2",
        "steps=0",
        "width=20 is not a multiple of 8",
        "needs hookpoints and timesteps",
    ):
        assert part in str(error.value)


def test_no_prompt_is_refused(pipe) -> None:
    with pytest.raises(UserError, match="no prompt"):
        _generate(pipe, [], [])


def test_bytes_are_rounded_to_nearest_and_nonfinite_is_black() -> None:
    values = [0.0, 0.5 / 255 + 1e-4, 1.0, 1.2, -0.2, math.nan, math.inf, 0.4, 0.6]
    picture = torch.tensor(values).view(1, 3, 3, 1)
    # Row by row, the three channels of a pixel side by side.
    assert to_uint8(picture).tolist() == [[[[0, 255, 0]], [[1, 0, 102]], [[255, 0, 153]]]]


def test_what_computes_elsewhere_than_its_weights_lie_is_given_tensors_there(
    pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under sequential offloading the pipeline's `device` is meta, where its weights are."""
    plain = _generate(pipe)
    pictures = torch.zeros(2, 16, 16, 3, dtype=torch.uint8)
    layers = {"text_0": list_text_layers(pipe)["text_0"]}
    monkeypatch.setattr(type(pipe), "device", property(lambda _pipe: torch.device("meta")))
    monkeypatch.setattr(
        type(pipe), "_execution_device", property(lambda _pipe: torch.device("cpu"))
    )
    made = _generate(pipe)
    assert np.array_equal(_images(made), _images(plain))
    latents = encode_pictures(pipe, pictures, batch_size=2)
    given = prompted(pipe, "", guidance=5.0, height=16, width=16)
    mid = {"mid": HOOKPOINTS["mid"]}
    captured = capture_noised(pipe, latents, [1, 2], given, hookpoints=mid, timesteps=[501])
    assert captured["mid", 501].shape == (2, 16, 64)
    assert len(capture_text(pipe, layers, ["a cat"])["text_0"].outputs) == 1


def test_a_pipeline_that_needs_a_picture_is_refused_by_name(pipe) -> None:
    with pytest.raises(
        UserError, match="StableDiffusionInpaintPipeline needs a picture besides the prompt"
    ):
        _generate(as_class(pipe, "StableDiffusionInpaintPipeline"))
