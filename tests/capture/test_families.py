"""Capture in a pipeline of every family: exact updates, separate branches, unchanged pictures."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel
from diffusers.pipelines.pixart_alpha.pipeline_pixart_sigma import PixArtSigmaPipeline
from torch import Tensor

from diffusae.backbone.branches import counted_branches, planned_branches
from diffusae.backbone.families.table import adapter_of
from diffusae.backbone.hookpoints import denoiser_of
from diffusae.capture.attention import capture_cross_attention, joint_attention, word_tokens
from diffusae.capture.conditions import conditions
from diffusae.capture.generate import Generation, generate
from diffusae.capture.hooks import capture_updates, hook_blocks
from diffusae.capture.replay import recorded_outputs, replayed_outputs
from diffusae.errors import UserError
from tiny_families import FAMILIES, PIXELS, tiny_family

STEPS = 3
PROMPTS, SEEDS = ("a cat", "dogs"), (1, 2)


@pytest.fixture(scope="module")
def pipe(family: str) -> Any:
    return tiny_family(family)


def timesteps(
    pipe: Any, *, height: int = PIXELS, width: int = PIXELS, steps: int = STEPS
) -> list[float]:
    adapter = adapter_of(pipe)
    unit = pipe.vae_scale_factor * adapter.patch
    return adapter.schedule(pipe.scheduler, steps, (height // unit) * (width // unit)).tolist()


def make(pipe: Any, family: str, prompts=PROMPTS, seeds=SEEDS, **options: Any) -> Generation:
    options = FAMILIES[family].asked | {"height": PIXELS, "width": PIXELS, "steps": STEPS} | options
    return generate(pipe, prompts, seeds, **options)


def unguided(family: str) -> dict[str, Any]:
    return {"true_guidance": None} if family == "flux" else {"guidance": 1.0}


@contextmanager
def spied(pipe: Any, path: str) -> Iterator[list[Tensor]]:
    """Output minus input of one block in every denoiser call, by replacing its forward, without
    hooks."""
    module, seen = denoiser_of(pipe).get_submodule(path), []
    forward = module.forward

    def spy(*args: Any, **kwargs: Any) -> Any:
        before = args[0] if args else kwargs["hidden_states"]
        output = forward(*args, **kwargs)
        seen.append((output if isinstance(output, Tensor) else output[-1]) - before)
        return output

    module.forward = spy  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        del module.forward


@pytest.mark.parametrize("block", ["down", "mid", "up"])
def test_the_update_is_output_minus_input_to_the_bit(pipe: Any, family: str, block: str) -> None:
    path, (height, width), d_in = FAMILIES[family].blocks[block]
    times = timesteps(pipe)
    with spied(pipe, path) as seen:
        made = make(pipe, family, hookpoints={block: path}, timesteps=times)
    passes = (
        seen
        if family != "flux"
        else [torch.cat(seen[i : i + 2][::-1]) for i in range(0, len(seen), 2)]
    )
    assert len(passes) == STEPS
    for timestep, delta in zip(times, passes, strict=True):
        for conditioning, half in (("uncond", delta[:2]), ("cond", delta[2:])):
            update = made.updates[block, timestep, conditioning]
            assert update.shape == (2, height * width, d_in)
            expected = half if half.ndim == 3 else half.flatten(2).transpose(1, 2)
            assert torch.equal(update, expected)
            assert update.abs().max() > 0


def test_cond_and_uncond_are_told_apart_as_separate_runs_show(pipe: Any, family: str) -> None:
    """At the first step, a guided run's branches equal unguided runs of its prompts and of empty
    ones."""
    first = timesteps(pipe)[:1]
    wanted: dict[str, Any] = {"hookpoints": FAMILIES[family].hookpoints, "timesteps": first}
    guided = make(pipe, family, **wanted).updates
    alone = {
        name: (
            make(
                pipe, family, prompts, conditionings=["cond"], **wanted, **unguided(family)
            ).updates
        )
        for name, prompts in (("cond", PROMPTS), ("uncond", ("", "")))
    }
    # Its empty prompt is not encoded
    zeroed = family == "sdxl" and pipe.config.force_zeros_for_empty_prompt
    for block in FAMILIES[family].blocks:
        for name, other in (("cond", "uncond"), ("uncond", "cond")):
            update, same = guided[block, first[0], name], alone[name][block, first[0], "cond"]
            if not (zeroed and name == "uncond"):
                torch.testing.assert_close(update, same, rtol=1e-4, atol=1e-5)
            assert (update - alone[other][block, first[0], "cond"]).abs().max() > 1e-4


def test_pictures_with_hooks_are_the_pictures_without_to_the_bit(pipe: Any, family: str) -> None:
    times = timesteps(pipe)
    for options in ({}, unguided(family)):
        without = make(pipe, family, **options)
        with capture_cross_attention(pipe, times):
            hooked = make(
                pipe,
                family,
                hookpoints=FAMILIES[family].hookpoints,
                timesteps=times,
                conditionings=["cond"],
                **options,
            )
        assert torch.equal(hooked.latents, without.latents)
        assert hooked.images is not None and without.images is not None
        assert np.array_equal(hooked.images, without.images)
        assert hooked.images.std() > 1  # a picture, not one colour
    modules = list(denoiser_of(pipe).modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    assert not {"cache_context", "encode_prompt"} & (
        vars(pipe).keys() | vars(denoiser_of(pipe)).keys()
    )


def test_generate_makes_the_picture_that_the_pipeline_itself_makes(pipe: Any, family: str) -> None:
    adapter, made = adapter_of(pipe), make(pipe, family)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    latents = torch.stack([torch.randn(4, 8, 8, generator=generator) for generator in generators])
    if family == "flux":
        latents = pipe._pack_latents(latents, 2, 4, 8, 8)  # FLUX's own packing, beside ours
        options = {"true_cfg_scale": 5.0, "guidance_scale": 3.5, "negative_prompt": ["", ""]}
    else:
        options = {"guidance_scale": 5.0}
    if family == "pixart":
        options |= {"use_resolution_binning": False, "clean_caption": False}
    if "text_tokens" in FAMILIES[family].asked:
        options["max_sequence_length"] = FAMILIES[family].asked["text_tokens"]
    own = pipe(
        list(PROMPTS), num_inference_steps=STEPS, latents=latents, height=PIXELS, width=PIXELS,
        generator=generators, output_type="np", **options,
    ).images  # fmt: skip
    assert made.images is not None
    assert np.array_equal(made.images, (own * 255).round().astype(np.uint8))
    assert made.latents.shape == (2, 4, 8, 8)
    assert adapter.latent_channels == 4


def test_latents_are_packed_and_unpacked_without_loss(pipe: Any) -> None:
    adapter, latents = adapter_of(pipe), torch.randn(2, 4, 6, 10)
    assert torch.equal(adapter.unpack(adapter.pack(latents), 6, 10), latents)


def test_positions_are_row_major_over_the_picture(pipe: Any, family: str) -> None:
    """A local change of the latents (not square) changes the first block's update there most."""
    adapter, height, width = adapter_of(pipe), 64, 128
    given: dict[str, Any] = conditions(
        pipe, ["a cat"], "cond", **FAMILIES[family].asked, height=height, width=width
    )
    latents = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(1))
    path = FAMILIES[family].blocks["down"][0]
    grids, seen = [], []

    def look(_block: str, moment: Any, before: Tensor) -> None:
        grids.append(moment.grid)
        seen.append(before[0])

    unit = 2 if adapter.patch == 2 else 1
    with torch.no_grad(), hook_blocks(pipe, {"down": f"{path}:before"}, look):
        adapter.predict(given, latents, 500.0)
        latents[:, :, 2 * unit, 5 * unit] += 10.0
        adapter.predict(given, latents, 500.0)
    rows, columns = grids[0]
    assert (rows, columns) == (8 // unit, 16 // unit)
    changed = (seen[1] - seen[0]).norm(dim=-1)
    row, column = divmod(int(changed.argmax()), columns)
    # A U-Net's convolutions have mixed neighbours before its first block
    mixed = 1 if adapter.patch == 1 else 0
    assert abs(row - 2) <= mixed and abs(column - 5) <= mixed


def test_uncond_of_an_unguided_call_is_refused_before_anything_runs(pipe: Any, family: str) -> None:
    steps: list[int] = []
    with pytest.raises(UserError, match="no uncond branch"):
        make(
            pipe,
            family,
            hookpoints=FAMILIES[family].hookpoints,
            timesteps=timesteps(pipe),
            progress=steps.append,
            **unguided(family),
        )
    assert steps == []
    with (
        pytest.raises(UserError, match="no uncond branch"),
        capture_updates(pipe, FAMILIES[family].hookpoints, timesteps(pipe)),
    ):
        make(pipe, family, **unguided(family))


def test_the_plan_and_the_pipeline_agree_on_the_branches(pipe: Any, family: str) -> None:
    adapter, asked = adapter_of(pipe), FAMILIES[family].asked
    for options in (asked, asked | unguided(family)):
        came: list[str] = []
        with counted_branches(pipe) as branches:
            handle = denoiser_of(pipe).register_forward_pre_hook(
                lambda *_, branches=branches, came=came: came.extend(branches())
            )
            make(pipe, family, **options)
            handle.remove()
        planned = planned_branches(
            adapter.denoiser,
            options["guidance"],
            layout=adapter.layout,
            true_guidance=options.get("true_guidance"),
        )
        assert set(came) == set(planned)
        assert len(came) == STEPS * len(planned)


def test_a_picture_depends_neither_on_its_place_nor_on_its_batch(pipe: Any, family: str) -> None:
    together, alone = make(pipe, family), make(pipe, family, PROMPTS[1:], SEEDS[1:])
    torch.testing.assert_close(together.latents[1:], alone.latents, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together.latents[0], together.latents[1])


def test_attention_to_the_text_is_recorded_over_the_picture_and_sums_to_one(
    pipe: Any, family: str
) -> None:
    times, adapter = timesteps(pipe), adapter_of(pipe)
    tokenizer, tokens = adapter.words(pipe, FAMILIES[family].asked.get("text_tokens"))
    with capture_cross_attention(pipe, times) as captured:
        make(pipe, family)
    assert {timestep for _, timestep in captured.maps} == set(times)
    for (block, _), maps in captured.maps.items():
        height, width = captured.grids[block]
        assert maps.shape[:2] == (2, height * width) and maps.shape[2] >= tokens
        torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:2]))
    assert word_tokens(tokenizer, "a cat", "cat", limit=tokens)
    assert word_tokens(tokenizer, "a cat", "cat", limit=2) == []


def test_a_replayed_call_is_the_recorded_one_and_runs_only_the_rest(pipe: Any, family: str) -> None:
    with recorded_outputs(pipe) as outputs:
        whole = make(pipe, family)
    visited: set[float] = set()
    path = FAMILIES[family].blocks["mid"][0]
    with (
        replayed_outputs(pipe, outputs, list(outputs)[:2]),
        hook_blocks(pipe, {"mid": path}, lambda _block, moment, *_: visited.add(moment.timestep)),
    ):
        assert torch.equal(make(pipe, family).latents, whole.latents)
    assert visited == {timesteps(pipe)[-1]}


@pytest.mark.parametrize("conditioning", ["cond", "uncond"])
def test_conditions_are_what_the_pipeline_gives_its_denoiser(
    pipe: Any, family: str, conditioning: str
) -> None:
    """One pass with these arguments equals the branch of the pipeline's own first pass."""
    first, adapter, mid = (
        timesteps(pipe)[0],
        adapter_of(pipe),
        {"mid": FAMILIES[family].blocks["mid"][0]},
    )
    own = make(pipe, family, hookpoints=mid, timesteps=[first]).updates["mid", first, conditioning]
    given = conditions(
        pipe, PROMPTS, conditioning, **FAMILIES[family].asked, height=PIXELS, width=PIXELS
    )
    latents = torch.stack(
        [torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(s)) for s in SEEDS]
    )
    maps: list[Tensor] = []
    with (
        torch.no_grad(),
        hook_blocks(pipe, mid, lambda _block, _moment, update: maps.append(update)),
    ):
        predicted = adapter.predict(given, latents, first)
    torch.testing.assert_close(maps[0], own, rtol=1e-4, atol=1e-5)
    assert predicted.shape == latents.shape


def test_joint_attention_is_what_the_layer_computes() -> None:
    """Against the layer's own scaled dot product, with one value per text token, none for the
    picture."""
    pipe = tiny_family("flux")
    layer = pipe.transformer.transformer_blocks[0].attn
    picture, words = torch.randn(2, 4, 32), torch.randn(2, 3, 32)
    ids = torch.cat([torch.zeros(3, 3), torch.tensor([[0.0, i // 2, i % 2] for i in range(4)])])
    rotary = pipe.transformer.pos_embed(ids)
    seen: list[Tensor] = []
    own = torch.nn.functional.scaled_dot_product_attention

    def spy(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        scores = query.float() @ key.float().transpose(-1, -2) * query.shape[-1] ** -0.5
        seen.append(scores.softmax(-1)[:, :, 3:, :3])
        return own(query, key, value, **options)

    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
        layer(hidden_states=picture, encoder_hidden_states=words, image_rotary_emb=rotary)
        maps = joint_attention(layer, picture, words, rotary=rotary)
    (shares,) = seen
    expected = (shares / shares.sum(-1, keepdim=True)).mean(dim=1)
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_captured_at_the_schedulers_own_timesteps(
    family: str, dtype: torch.dtype
) -> None:
    """FLUX gives its denoiser a thousandth of the timestep, rounded. The scheduler's own is
    recorded."""
    half = tiny_family(family).to(dtype)
    times = timesteps(half, steps=5)
    made = make(half, family, hookpoints=FAMILIES[family].hookpoints, timesteps=times, steps=5)
    assert {timestep for _, timestep, _ in made.updates} == set(times)
    assert all(update.dtype == dtype for update in made.updates.values())
    assert made.nonfinite == {} and made.latents.dtype == torch.float32


def test_a_pipeline_that_no_config_names_is_hooked_as_it_is() -> None:
    """PixArt-Sigma: another class with the same kind of denoiser."""
    parts = tiny_family("pixart").components
    config: dict[str, Any] = {
        name: value
        for name, value in parts["transformer"].config.items()
        if not name.startswith("_")
    }
    config["use_additional_conditions"] = False
    denoiser = PixArtTransformer2DModel(**config)
    names = ("tokenizer", "text_encoder", "vae", "scheduler")
    other: Any = PixArtSigmaPipeline(transformer=denoiser, **{name: parts[name] for name in names})
    other.set_progress_bar_config(disable=True)
    times = timesteps(other)
    made = make(other, "pixart", hookpoints={"any": 1, "last": -1}, timesteps=times)
    assert set(made.updates) == {
        (block, timestep, branch)
        for block in ("any", "last")
        for timestep in times
        for branch in ("cond", "uncond")
    }
    assert made.grids == {"any": (4, 4), "last": (4, 4)}
