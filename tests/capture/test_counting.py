"""Rows of a denoiser call must be pictures of the running call x branches of its class. Recordings
are compared with a plain hook of this file, for one and two pictures."""

import inspect
import threading
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from counted_pipelines import PROMPTS, arguments, as_class, longer, plain_hook
from diffusae.backbone.families.table import FAMILIES, passes_of
from diffusae.capture.attention import capture_cross_attention
from diffusae.capture.generate import generate
from diffusae.capture.hooks import capture_updates
from diffusae.errors import UserError
from tiny_families import tiny_family

MID = {"mid": "mid_block.attentions.0"}
JOINT = {"mid": "transformer_blocks.1"}
TIMES = [667, 334, 1]
BOTH = ("uncond", "cond")


@pytest.fixture(scope="module")
def sd3() -> Any:
    return tiny_family("sd3")


@pytest.fixture(scope="module")
def flux() -> Any:
    return tiny_family("flux")


def captured(
    pipe: Any, call: Any, times: Any = TIMES, place: Any = MID, **options: Any
) -> tuple[Any, list[Tensor]]:
    """(the recording, the outputs that a plain hook sees in every denoiser call)."""
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    with (
        plain_hook(denoiser, place["mid"]) as seen,
        capture_updates(pipe, place, times, **options) as got,
    ):
        call()
    return got.updates, [update for _, update in seen]


def check(
    recorded: tuple[Any, list[Tensor]], pictures: int, times: Any, *branches: tuple[str, ...]
) -> None:
    """The recorded rows are the plain hook's. Call i of a step has `branches[i]`; unnamed branches
    are left out."""
    (updates, seen), expected = recorded, {}
    for number, update in enumerate(seen):
        step, part = divmod(number, len(branches))
        assert len(update) == pictures * len(branches[part])
        for name, rows in zip(branches[part], update.split(pictures), strict=True):
            if name in BOTH:
                expected["mid", times[step], name] = rows
    assert updates.keys() == expected.keys()
    assert all(torch.equal(updates[key], rows) for key, rows in expected.items())


def test_every_class_that_is_known_exists_and_takes_what_is_read_of_its_calls() -> None:
    for family in FAMILIES:
        for name in (*family.pipelines, *family.with_a_picture):
            kind = getattr(diffusers, name)
            parameters = set(inspect.signature(kind.__call__).parameters)
            read = {"prompt", "prompt_embeds", "num_images_per_prompt", "guidance_scale"}
            assert parameters >= read, name
            assert passes_of(kind) is family.passes(name)


@pytest.mark.parametrize("pictures", [1, 2])
def test_perturbed_attention_guidance_has_a_third_branch_that_is_neither(
    pipe, pictures: int
) -> None:
    pag = as_class(pipe, "StableDiffusionPAGPipeline")
    for options, branches in (
        ({}, (*BOTH, "perturbed")),
        ({"guidance_scale": 1.0}, ("cond", "perturbed")),
        ({"pag_scale": 0.0}, BOTH),
    ):
        wanted = [branch for branch in branches if branch in BOTH]
        recorded = captured(
            pag, lambda options=options: pag(**arguments(pictures, **options)), conditionings=wanted
        )
        check(recorded, pictures, TIMES, branches)


@pytest.mark.parametrize("pictures", [1, 2])
def test_skipped_layers_make_a_second_pass_that_is_neither(sd3, pictures: int) -> None:
    skip = {
        "skip_guidance_layers": [1],
        "skip_layer_guidance_start": -1.0,
        "skip_layer_guidance_stop": 2.0,
    }
    sd3.scheduler.set_timesteps(3)
    times = sd3.scheduler.timesteps.tolist()
    # The block that is skipped runs once a step, its neighbour in the extra pass too.
    check(
        captured(sd3, lambda: sd3(**longer(pictures, **skip)), times, JOINT), pictures, times, BOTH
    )
    place = {"mid": "transformer_blocks.0"}
    recorded = captured(sd3, lambda: sd3(**longer(pictures, **skip)), times, place)
    check(recorded, pictures, times, BOTH, ("skipped",))


@pytest.mark.parametrize("pictures", [1, 2])
@pytest.mark.parametrize("true_guidance", [1.0, 3.0])
def test_flux_with_a_picture_makes_one_pass_or_two_as_its_call_asks(
    flux, pictures: int, true_guidance: float
) -> None:
    other = as_class(flux, "FluxImg2ImgPipeline")
    options = longer(pictures, image=torch.rand(pictures, 3, 64, 64), strength=0.7, latents=None)
    options |= {
        "true_cfg_scale": true_guidance,
        "negative_prompt": [""] * pictures,
        "num_inference_steps": 4,
    }
    other(**options)
    times = other.scheduler.timesteps.tolist()[-3:]  # 0.7 of 4 steps
    branches = [("cond",), ("uncond",)] if true_guidance > 1 else [("cond",)]
    wanted = [name for (name,) in branches]
    recorded = captured(other, lambda: other(**options), times, JOINT, conditionings=wanted)
    check(recorded, pictures, times, *branches)


def test_flux_without_a_negative_prompt_makes_one_pass_whatever_its_true_guidance(flux) -> None:
    options = longer(2, true_cfg_scale=3.0, latents=None, num_inference_steps=2)
    updates, seen = captured(flux, lambda: flux(**options), [1000.0], JOINT, conditionings=["cond"])
    assert torch.equal(updates["mid", 1000.0, "cond"], seen[0])
    with pytest.raises(UserError, match="no uncond branch"):
        captured(flux, lambda: flux(**options), [1000.0], JOINT)


@pytest.mark.parametrize("pictures", [1, 2])
def test_pictures_are_counted_by_prompts_embeddings_and_pictures_a_prompt(
    pipe, pictures: int
) -> None:
    embedded, negative = pipe.encode_prompt(PROMPTS[:pictures], "cpu", 1, True)
    several = {"num_images_per_prompt": 2, "latents": None}
    given = {"prompt": None, "prompt_embeds": embedded, "negative_prompt_embeds": negative}
    for options, count in (
        ({}, pictures),
        (several, 2 * pictures),
        (given, pictures),
        (given | several, 2 * pictures),
    ):
        recorded = captured(pipe, lambda options=options: pipe(**arguments(pictures, **options)))
        check(recorded, count, TIMES, BOTH)
    if pictures == 1:
        check(captured(pipe, lambda: pipe(**arguments(1, prompt="a cat"))), 1, TIMES, BOTH)


@pytest.mark.parametrize("pictures", [1, 2])
def test_guidance_that_ends_within_a_call_changes_the_branches_from_that_step_on(
    pipe, pictures: int
) -> None:
    def stop(pipe: Any, index: int, _t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if index:
            return {}
        pipe._guidance_scale = 0.0
        return {"prompt_embeds": tensors["prompt_embeds"].chunk(2)[-1]}

    options = arguments(
        pictures, callback_on_step_end=stop, callback_on_step_end_tensor_inputs=["prompt_embeds"]
    )
    updates, seen = captured(pipe, lambda: pipe(**options), conditionings=["cond"])
    for time, update in zip(TIMES, seen, strict=True):
        assert torch.equal(updates["mid", time, "cond"], update[-pictures:])
    with pytest.raises(UserError, match="no uncond branch"):
        captured(pipe, lambda: pipe(**options))


def test_a_batch_that_shrinks_or_disagrees_with_the_prompts_is_refused_by_name(pipe) -> None:
    def shrink(_pipe: Any, index: int, _t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        first = {
            "latents": tensors["latents"][:1],
            "prompt_embeds": tensors["prompt_embeds"][[0, 2]],
        }
        return {} if index else first

    options = arguments(
        2,
        callback_on_step_end=shrink,
        callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
    )
    with pytest.raises(
        UserError, match="StableDiffusionPipeline runs its denoiser on 2 rows for 2 pictures"
    ):
        captured(pipe, lambda: pipe(**options))
    with pytest.raises(
        UserError, match="StableDiffusionPipeline runs its denoiser on 4 rows for 1 pictures"
    ):
        captured(pipe, lambda: pipe(**arguments(2, prompt="a cat")))


@pytest.mark.parametrize("pictures", [1, 2])
def test_a_loop_of_ones_own_declares_its_layout_or_is_refused(pipe, pictures: int) -> None:
    rows = 2 * pictures

    def own() -> None:
        with torch.no_grad():
            pipe.unet(torch.randn(rows, 4, 8, 8), 667, torch.randn(rows, 16, 32))

    for earlier in (None, 5.0, 1.0):  # no call before, or one with other guidance: it says nothing
        if earlier:
            pipe(**arguments(2, guidance_scale=earlier))
        with pytest.raises(UserError, match=r"In a loop of your own declare them, as in layout="):
            captured(pipe, own, [667])
        check(captured(pipe, own, [667], layout=BOTH), pictures, [667], BOTH)
        updates, seen = captured(pipe, own, [667], layout=("cond",), conditionings=["cond"])
        check((updates, seen), rows, [667], ("cond",))
    with pytest.raises(UserError, match="layout='cond' is one text"):
        captured(pipe, own, [667], layout="cond")
    with pytest.raises(UserError, match="none twice"):
        captured(pipe, own, [667], layout=("cond", "cond"))
    with pytest.raises(UserError, match="which is not one row per picture and branch of"):
        captured(pipe, own, [667], layout=("uncond", "cond", "third", "fourth", "fifth"))


@pytest.mark.parametrize("pictures", [1, 2])
def test_of_two_pipelines_with_one_denoiser_the_one_that_runs_counts(pipe, pictures: int) -> None:
    other = as_class(pipe, "StableDiffusionImg2ImgPipeline")
    image = torch.rand(pictures, 3, 16, 16)
    options = arguments(pictures, image=image, strength=0.7, latents=None)
    options.pop("latents")
    pipe(**arguments(2, guidance_scale=1.0))
    check(captured(other, lambda: other(**options), TIMES[1:]), pictures, TIMES[1:], BOTH)
    with pytest.raises(
        UserError,
        match="StableDiffusionImg2ImgPipeline runs the denoiser of this StableDiffusionPipeline",
    ):
        captured(pipe, lambda: other(**options), TIMES[1:])
    with pytest.raises(UserError, match="StableDiffusionImg2ImgPipeline runs"):
        captured(pipe, lambda: other(**options), TIMES[1:], layout=BOTH)


@pytest.mark.parametrize("pictures", [1, 2])
@pytest.mark.parametrize(
    "name", ["PNDMScheduler", "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler"]
)
def test_a_timestep_that_comes_twice_is_the_error_that_generate_gives(
    pipe, monkeypatch: pytest.MonkeyPatch, name: str, pictures: int
) -> None:
    monkeypatch.setattr(
        pipe,
        "scheduler",
        getattr(diffusers, name).from_config(pipe.scheduler.config, skip_prk_steps=True),
    )
    pipe.scheduler.set_timesteps(3)
    times = pipe.scheduler.timesteps.tolist()
    match = rf"mid ran 2 times at timestep .*\({name}\).*use DDIM"
    with pytest.raises(UserError, match=match):
        captured(pipe, lambda: pipe(**arguments(pictures)), times)
    with pytest.raises(UserError, match=match):
        generate(
            pipe,
            PROMPTS[:pictures],
            range(pictures),
            steps=3,
            guidance=5.0,
            hookpoints=MID,
            timesteps=times,
        )
    once = [time for time in times if times.count(time) == 1][:1]  # what comes once is recorded
    updates, _ = captured(pipe, lambda: pipe(**arguments(pictures)), once)
    assert {len(update) for update in updates.values()} == {pictures}


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("pictures", [1, 2])
def test_a_block_that_gives_a_kept_output_is_named(pipe, pictures: int, inside: bool) -> None:
    """As in DeepCache: at every second step a block returns its previous output."""
    block = pipe.unet.get_submodule(MID["mid"])
    own, kept = block.forward, []

    def forward(*args: Any, **kwargs: Any) -> Any:
        kept.append(own(*args, **kwargs) if len(kept) % 2 == 0 else kept[-1])
        return kept[-1]

    def call() -> None:
        block.forward = forward
        pipe(**arguments(pictures))

    named = "picture 0" if pictures == 1 else "pictures 0 to 1"
    try:
        if not inside:
            block.forward = forward
        with pytest.raises(
            UserError, match=rf"mid \(mid_block.* did not run.* at timestep 334 for {named}"
        ):
            captured(pipe, call)
    finally:
        del block.forward


def test_a_block_that_is_passed_by_is_named(pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        pipe.unet.mid_block, "forward", lambda hidden_states, *_, **__: hidden_states
    )
    with pytest.raises(
        UserError,
        match=r"mid .* did not run, or not as itself, at timestep 667 for pictures 0 to 1",
    ):
        captured(pipe, lambda: pipe(**arguments(2)))


@pytest.mark.parametrize(
    "place", ["transformer_blocks.0", "transformer_blocks.1", "single_transformer_blocks.1"]
)
@pytest.mark.parametrize("named", [True, False])
def test_a_cache_of_diffusers_is_named_whatever_the_block(flux, place: str, named: bool) -> None:
    """The first block runs at every step, with old additions of the other blocks."""
    config = diffusers.FirstBlockCacheConfig(threshold=10.0)
    flux.transformer.enable_cache(config)
    if not named:  # as apply_first_block_cache leaves the denoiser
        flux.transformer._cache_config = None
    options = longer(1, latents=None)

    def captures() -> None:
        flux(**options)
        times = flux.scheduler.timesteps.tolist()
        captured(flux, lambda: flux(**options), times, {"mid": place}, conditionings=["cond"])

    try:
        with pytest.raises(UserError, match=r"mid .* at timestep .* for picture 0"):
            captures()
    finally:
        flux.transformer._cache_config = config
        flux.transformer.disable_cache()


def test_an_update_of_exactly_zero_is_told(pipe, caplog: pytest.LogCaptureFixture) -> None:
    block = pipe.unet.get_submodule(MID["mid"])
    handle = block.register_forward_hook(lambda _module, args, _output: (args[0],))
    try:
        captured(pipe, lambda: pipe(**arguments(2)), [667])
    finally:
        handle.remove()
    assert "mid at timestep 667, cond, is exactly zero for 2 of 2 pictures" in caplog.text


@pytest.mark.parametrize("how", ["whole", "method", "forward"])
def test_a_compiled_denoiser_names_the_setting_that_serves(
    pipe, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "whole":
        monkeypatch.setattr(pipe, "unet", torch.compile(pipe.unet, backend="eager"))
    elif how == "method":
        # As unet.compile() does
        monkeypatch.setattr(pipe.unet, "_compiled_call_impl", pipe.unet._call_impl)
    else:
        monkeypatch.setattr(pipe.unet, "forward", torch.compile(pipe.unet.forward, backend="eager"))
    for context in (capture_updates(pipe, MID, [667]), capture_cross_attention(pipe, [667])):
        with pytest.raises(UserError, match=r"compiled as a whole.*model.compile=true"), context:
            pass


def test_a_call_that_ends_early_leaves_no_part_in_silence(pipe) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    def call() -> None:
        with pytest.raises(ZeroDivisionError):
            pipe(**arguments(2, callback_on_step_end=fail))
        pipe(**arguments(1))

    with pytest.raises(
        UserError, match=r"not recorded at timestep 334.*for pictures 0 to 1.*ended early"
    ):
        captured(pipe, call)
    check(captured(pipe, lambda: pipe(**arguments(1))), 1, TIMES, BOTH)


def test_a_call_inside_of_a_call_is_counted_by_itself(pipe) -> None:
    def preview(pipe: Any, index: int, *_: Any) -> dict[str, Any]:
        if index == 0:
            pipe(**arguments(1))
        return {}

    updates, seen = captured(pipe, lambda: pipe(**arguments(2, callback_on_step_end=preview)))
    assert [len(rows) for rows in seen] == [4, 2, 2, 2, 4, 4]
    for time, calls in ((667, (0, 1)), (334, (4, 2)), (1, (5, 3))):
        outer, inner = (seen[call] for call in calls)
        assert torch.equal(updates["mid", time, "cond"], torch.cat([outer[2:], inner[1:]]))


def test_calls_of_two_threads_at_once_are_refused_and_one_after_the_other_are_counted(pipe) -> None:
    errors: list[str] = []
    begun, finished = threading.Event(), threading.Event()

    def wait(_pipe: Any, index: int, *_: Any) -> dict[str, Any]:
        if index == 0:
            begun.set()
            finished.wait(30)
        return {}

    def other() -> None:
        begun.wait(30)
        try:
            pipe(**arguments(1))
        except UserError as error:
            errors.append(str(error))
        finished.set()

    thread = threading.Thread(target=other)
    thread.start()
    captured(pipe, lambda: pipe(**arguments(2, callback_on_step_end=wait)))
    thread.join()
    assert errors and "two calls of StableDiffusionPipeline run at once" in errors[0]

    def alone() -> None:
        thread = threading.Thread(target=lambda: pipe(**arguments(1)))
        thread.start()
        thread.join()

    check(captured(pipe, alone), 1, TIMES, BOTH)


def test_contexts_that_end_in_any_order_leave_the_pipeline_as_it_was(pipe) -> None:
    kind = type(pipe)
    first, second = capture_updates(pipe, MID, [667]), capture_updates(pipe, MID, [334])
    one, two = first.__enter__(), second.__enter__()
    pipe(**arguments(1))
    first.__exit__(None, None, None)
    pipe(**arguments(2))
    second.__exit__(None, None, None)
    assert type(pipe) is kind
    assert {len(update) for update in one.updates.values()} == {1}
    assert {len(update) for update in two.updates.values()} == {3}


def test_a_subclass_counts_as_the_class_whose_call_it_inherits(pipe) -> None:
    class Heir(diffusers.StableDiffusionPipeline):
        pass

    class Mine(diffusers.StableDiffusionPipeline):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

    heir, mine = (kind(**pipe.components, requires_safety_checker=False) for kind in (Heir, Mine))
    for one in (heir, mine):
        one.set_progress_bar_config(disable=True)
    check(captured(heir, lambda: heir(**arguments(2))), 2, TIMES, BOTH)
    with pytest.raises(UserError, match="Mine does not tell"):
        captured(mine, lambda: mine(**arguments(2)))
    check(captured(mine, lambda: mine(**arguments(2)), layout=BOTH), 2, TIMES, BOTH)


def test_texts_in_the_place_of_lists_of_texts_are_refused(pipe) -> None:
    for asked in (
        {"prompts": "ab", "seeds": [1, 2]},
        {"prompts": PROMPTS, "seeds": [1, 2], "conditionings": "cond"},
    ):
        with pytest.raises(UserError, match="is one text, but a list of texts is needed"):
            generate(pipe, steps=2, guidance=5.0, hookpoints=MID, timesteps=[501], **asked)


def test_attention_is_counted_too(pipe) -> None:
    pag = as_class(pipe, "StableDiffusionPAGPipeline")
    with capture_cross_attention(pag, [667]) as recorded:
        pag(**arguments(2))
    with capture_cross_attention(pipe, [667]) as plain:
        pipe(**arguments(2))
    for key, maps in plain.maps.items():
        torch.testing.assert_close(recorded.maps[key], maps, rtol=1e-4, atol=1e-5)
