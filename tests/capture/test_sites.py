"""Every site and both streams against plain hooks on the submodules, and edits at each site."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple

import pytest
import torch
from torch import Tensor

from diffusae.backbone.families.table import adapter_of, list_hookpoints
from diffusae.backbone.hookpoints import denoiser_of
from diffusae.capture.generate import generate
from diffusae.capture.hooks import hook_blocks
from diffusae.capture.sequences import to_positions
from diffusae.errors import UserError
from diffusae.interventions.edits import Edit
from diffusae.interventions.steer import steer
from tiny_families import FAMILIES, tiny_family

HEIGHT, WIDTH, STEPS = 64, 96, 2
PROMPTS, SEEDS = ("a cat", "dogs and"), (1, 2)
INNER = "mid_block.attentions.0.transformer_blocks.0"


class Place(NamedTuple):
    """Where a plain hook sees a hookpoint's tokens."""

    path: str
    side: Literal["input", "output"] = "output"
    place: int = 0
    """Among the inputs or the outputs of the module at `path`."""
    part: slice = slice(None)
    """Of a sequence that holds more."""


T5_AND_REGISTERS = 24 + 8
WORDS, PICTURE = slice(0, T5_AND_REGISTERS), slice(T5_AND_REGISTERS, None)
JOINT, SINGLE = "transformer_blocks.1", "single_transformer_blocks.0"
PLACES: dict[str, dict[str, Place]] = {
    "sd": {
        f"{INNER}:mlp_in": Place(f"{INNER}.ff", "input"),
        f"{INNER}:mlp_out": Place(f"{INNER}.ff"),
        f"{INNER}:attn_out": Place(f"{INNER}.attn1"),
        f"{INNER}:before": Place(INNER, "input"),
        f"{INNER}:after": Place(INNER),
    },
    "sd3": {
        f"{JOINT}:mlp_in": Place(f"{JOINT}.ff", "input"),
        f"{JOINT}:mlp_out": Place(f"{JOINT}.ff"),
        f"{JOINT}:attn_out": Place(f"{JOINT}.attn"),
        f"{JOINT}:after": Place(JOINT, place=1),
        f"{JOINT}:mlp_in@text": Place(f"{JOINT}.ff_context", "input"),
        f"{JOINT}:mlp_out@text": Place(f"{JOINT}.ff_context"),
        f"{JOINT}:attn_out@text": Place(f"{JOINT}.attn", place=1),
        f"{JOINT}:after@text": Place(JOINT),
    },
    "flux": {
        f"{JOINT}:mlp_out": Place(f"{JOINT}.ff"),
        f"{JOINT}:mlp_in@text": Place(f"{JOINT}.ff_context", "input"),
        f"{JOINT}:attn_out@text": Place(f"{JOINT}.attn", place=1),
        f"{SINGLE}:after": Place(SINGLE, place=1),
        f"{SINGLE}:after@text": Place(SINGLE),
    },
    # One sequence of registers, text and picture
    "aura_flow": {
        f"{SINGLE}:mlp_in": Place(f"{SINGLE}.ff", "input", part=PICTURE),
        f"{SINGLE}:mlp_out": Place(f"{SINGLE}.ff", part=PICTURE),
        f"{SINGLE}:attn_out": Place(f"{SINGLE}.attn", part=PICTURE),
        f"{SINGLE}:after": Place(SINGLE, part=PICTURE),
        f"{SINGLE}:mlp_in@text": Place(f"{SINGLE}.ff", "input", part=WORDS),
        f"{SINGLE}:mlp_out@text": Place(f"{SINGLE}.ff", part=WORDS),
        f"{SINGLE}:attn_out@text": Place(f"{SINGLE}.attn", part=WORDS),
    },
    # An MLP of convolutions, over feature maps
    "sana": {
        f"{JOINT}:mlp_in": Place(f"{JOINT}.ff", "input"),
        f"{JOINT}:mlp_out": Place(f"{JOINT}.ff"),
        f"{JOINT}:attn_out": Place(f"{JOINT}.attn1"),
    },
}
"""{family: {hookpoint: where a plain hook sees it}}"""
PLACES = {family: places for family, places in PLACES.items() if family in FAMILIES}


@pytest.fixture(scope="module", params=list(PLACES))
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def pipe(family: str) -> Any:
    return tiny_family(family)


def make(pipe: Any, family: str, **options: Any) -> Any:
    asked: dict[str, Any] = FAMILIES[family].asked | {
        "height": HEIGHT,
        "width": WIDTH,
        "steps": STEPS,
    }
    return generate(pipe, PROMPTS, SEEDS, **asked | options)


def times(pipe: Any) -> list[float]:
    adapter = adapter_of(pipe)
    unit = pipe.vae_scale_factor * adapter.patch
    return adapter.schedule(pipe.scheduler, STEPS, HEIGHT * WIDTH // unit**2).tolist()


def shift(tensor: Tensor, side: int = -1) -> Tensor:
    """A vector of d_in entries that a layer normalisation does not take away."""
    return torch.linspace(-1, 1, tensor.shape[side]) ** 2


@contextmanager
def plain_hooks(pipe: Any, family: str) -> Iterator[dict[str, list[Tensor]]]:
    """{hookpoint: the tensor at every call of its submodule}, by hooks of torch alone."""
    seen: dict[str, list[Tensor]] = {name: [] for name in PLACES[family]}
    with ExitStack() as stack:
        for name, at in PLACES[family].items():
            module = denoiser_of(pipe).get_submodule(at.path)

            def hook(_module, args, kwargs, output, name=name, at=at) -> None:
                value = output if at.side == "output" else [*args, *kwargs.values()]
                tensor = value if isinstance(value, Tensor) else value[at.place]
                tokens = to_positions(tensor) if tensor.ndim == 4 else tensor[:, at.part]
                seen[name].append(tokens)

            stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        yield seen


def test_each_site_holds_what_a_plain_hook_on_its_submodule_sees(pipe: Any, family: str) -> None:
    names = {str(n): name for n, name in enumerate(PLACES[family])}
    with plain_hooks(pipe, family) as seen:
        made = make(pipe, family, hookpoints=names, timesteps=times(pipe))
    without = make(pipe, family)
    assert torch.equal(made.latents, without.latents)
    for short, name in names.items():
        text = name.endswith("@text")
        for step, timestep in enumerate(times(pipe)):
            got = {b: made.updates[short, timestep, b] for b in ("cond", "uncond")}
            if family == "flux":  # a pass for cond, then one for uncond
                cond, uncond = seen[name][2 * step : 2 * step + 2]
            else:
                uncond, cond = seen[name][step].chunk(2)
            assert torch.equal(got["cond"], cond) and torch.equal(got["uncond"], uncond), name
            assert not torch.equal(cond, uncond)
            assert made.grids[short] == ((cond.shape[1],) if text else made.grids[short])
            key = short, timestep, "cond"
            assert made.lengths.get(key) == ([cond.shape[1]] * 2 if text else None)


def test_the_update_is_what_comes_after_without_what_was_before(pipe: Any, family: str) -> None:
    streams = ("", "@text") if any("@text" in name for name in PLACES[family]) else ("",)
    path = FAMILIES[family].blocks["down"][0]
    sites = {site: f"{path}:{site}" for site in ("update", "before", "after")}
    names = {f"{site}{s}": f"{name}{s}" for site, name in sites.items() for s in streams}
    made = make(pipe, family, hookpoints=names, timesteps=times(pipe)[-1:])
    for stream in streams:
        for branch in ("cond", "uncond"):
            update, before, after = (
                made.updates[f"{site}{stream}", times(pipe)[-1], branch] for site in sites
            )
            assert torch.equal(update, after - before) and update.any()


def test_an_edit_at_a_site_is_what_a_plain_hook_does_to_the_same_tensor(
    pipe: Any, family: str
) -> None:
    """A vector added in the conditional rows, by an edit and by a hook of torch."""
    without = make(pipe, family).latents
    for name, at in PLACES[family].items():
        module, calls = denoiser_of(pipe).get_submodule(at.path), []

        def shifted(tensor: Tensor, calls: list[int] = calls, part: slice = at.part) -> Tensor:
            calls.append(1)
            edited = tensor.clone()
            rows = slice(None) if family == "flux" else slice(2, None)  # those of cond
            if tensor.ndim == 4:
                edited[rows] += shift(tensor, 1)[:, None, None]
            elif family != "flux" or len(calls) % 2:
                edited[rows, part] += shift(tensor)
            return edited

        def of(values: Any, place: int = at.place) -> Any:
            if isinstance(values, Tensor):
                return shifted(values)
            return tuple(shifted(v) if n == place else v for n, v in enumerate(values))

        if at.side == "input":
            handle = module.register_forward_pre_hook(lambda _module, args: of(args))
        else:
            handle = module.register_forward_hook(lambda _module, _args, output: of(output))
        expected = make(pipe, family).latents
        handle.remove()
        with steer(pipe, [Edit(name, lambda vectors, _grid: shift(vectors))]) as effect:
            edited = make(pipe, family).latents
        torch.testing.assert_close(edited, expected, rtol=1e-4, atol=1e-5)
        assert (edited - without).abs().max() > 1e-5, name
        assert effect.steps[0] == STEPS and effect.largest_change[0] > 0


def test_hooks_at_sites_are_gone_afterwards(pipe: Any, family: str) -> None:
    with hook_blocks(pipe, {name: name for name in PLACES[family]}, lambda *_: None):
        pass
    modules = list(denoiser_of(pipe).modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def test_a_chunked_mlp_is_refused() -> None:
    pipe = tiny_family("sd3")
    pipe.transformer.enable_forward_chunking(chunk_size=1, dim=1)
    with (
        pytest.raises(UserError, match=r"in pieces.*disable_forward_chunking"),
        hook_blocks(pipe, {"x": "transformer_blocks.0:mlp_out"}, lambda *_: None),
    ):
        pass


def test_a_u_nets_layers_are_counted_from_its_configuration_as_from_the_model() -> None:
    pipe = tiny_family("sdxl")
    known = list_hookpoints(pipe.unet)
    assert {info.layers for info in known.values()} == {1, 2}
    outline = adapter_of(pipe).outline(pipe.unet.config)
    assert outline is not None and outline.hookpoints == known


def test_sd3s_last_block_has_no_text_to_read() -> None:
    with (
        pytest.raises(UserError, match="is the last block"),
        hook_blocks(tiny_family("sd3"), {"x": "-1@text"}, lambda *_: None),
    ):
        pass
