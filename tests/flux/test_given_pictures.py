"""FLUX.1's and FLUX.2's pipelines that take a picture: what is recorded and edited is the generated
picture alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers.pipelines.flux.pipeline_flux_kontext import FluxKontextPipeline
from torch import Tensor

from diffusae.backbone.families.table import adapter_of
from diffusae.capture.attention import capture_cross_attention
from diffusae.capture.generate import generate
from diffusae.capture.hooks import capture_updates
from diffusae.capture.replay import recorded_outputs, replayed_outputs
from diffusae.errors import UserError
from diffusae.interventions.edits import Edit
from diffusae.interventions.steer import steer
from flux.given_pictures import BLOCKS, POSITIONS, STEPS, call, replaced
from tiny_families import T5_TOKENS
from tiny_families.flux import control, fill, picture, with_parts_of_flux
from tiny_families.flux2 import TOKENS, dev, klein
from tiny_pipeline import seeded


@dataclass(frozen=True)
class Case:
    make: Callable[[], Any]
    options: dict[str, Any]
    """Of the pipeline's call."""
    branches: tuple[str, ...] = ("cond",)
    text: int = 0
    """Tokens of the text at the beginning of a single-stream block's sequence."""
    further: int = 0
    """Tokens of the given picture at the end of the picture's stream."""


T5 = {"max_sequence_length": T5_TOKENS}
CHAT = {"max_sequence_length": TOKENS}
CASES = {
    "kontext": Case(
        lambda: with_parts_of_flux(FluxKontextPipeline),
        T5
        | {"image": picture(64, 32), "_auto_resize": False, "max_area": 32 * 96}
        | {"true_cfg_scale": 3.0, "negative_prompt": ["", ""]},
        branches=("cond", "uncond"),
        further=4 * 2,
    ),
    "fill": Case(fill, T5 | {"image": picture(32, 96), "mask_image": picture(32, 96).convert("L")}),
    "control": Case(control, T5 | {"control_image": picture(32, 96)}),
    "flux2_dev": Case(dev, CHAT | {"image": [picture(96, 64)]}, text=TOKENS, further=6 * 4),
    "flux2_klein": Case(
        klein,
        CHAT | {"image": [picture(96, 64), picture(64, 80)], "guidance_scale": 4.0},
        branches=("cond", "uncond"),
        text=TOKENS,
        further=6 * 4 + 4 * 5,
    ),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def pipe(case: Case) -> Any:
    return seeded(case.make, 0)


def timesteps(pipe: Any) -> list[float]:
    return adapter_of(pipe).schedule(pipe.scheduler, STEPS, POSITIONS).tolist()


def of_picture(case: Case, sequence: Tensor, output: Any) -> tuple[Tensor, Any]:
    """The generated picture's tokens before and after a block."""
    after = output[1] if isinstance(output, tuple) else output
    start = 0 if isinstance(output, tuple) else case.text
    assert sequence.shape[1] == start + POSITIONS + case.further
    place = slice(start, start + POSITIONS)
    return sequence[:, place], after[:, place]


@pytest.mark.parametrize("block", BLOCKS)
def test_the_update_is_that_of_the_generated_picture(case: Case, pipe: Any, block: str) -> None:
    seen: list[Tensor] = []

    def look(sequence: Tensor, output: Any) -> None:
        before, after = of_picture(case, sequence, output)
        seen.append(after - before)

    path = str(BLOCKS[block])
    with (
        replaced(pipe, path, look),
        capture_updates(pipe, {block: path}, timesteps(pipe), conditionings=case.branches) as made,
    ):
        call(pipe, **case.options)
    assert made.grids == {block: (2, 6)}
    assert len(seen) == STEPS * len(case.branches)
    calls = iter(seen)
    for timestep in timesteps(pipe):
        for branch in case.branches:
            assert torch.equal(made.updates[block, timestep, branch], next(calls))
    if len(case.branches) == 2:
        assert not torch.allclose(seen[0], seen[1])


@pytest.mark.parametrize("block", BLOCKS)
def test_an_edit_changes_the_generated_pictures_tokens_alone(
    case: Case, pipe: Any, block: str
) -> None:
    path, branch, plain = str(BLOCKS[block]), case.branches[-1], call(pipe, **case.options)
    push = 2 * torch.randn(POSITIONS, 32, generator=torch.Generator().manual_seed(5))
    calls = iter(range(99))

    def by_hand(sequence: Tensor, output: Any) -> None:
        step, place = divmod(next(calls), len(case.branches))
        if step == 1 and case.branches[place] == branch:
            of_picture(case, sequence, output)[1].add_(push)

    with replaced(pipe, path, by_hand):
        expected = call(pipe, **case.options)
    edit = Edit(path, lambda _updates, _grid: push, window=(0.6, 0.4), conditionings=(branch,))
    with steer(pipe, [edit]):
        edited = call(pipe, **case.options)
    torch.testing.assert_close(edited, expected, rtol=1e-4, atol=1e-5)
    assert (edited - plain).abs().amax() > 1e-4
    assert torch.equal(call(pipe, **case.options), plain)


def test_a_replayed_call_is_the_recorded_one(case: Case, pipe: Any) -> None:
    with recorded_outputs(pipe) as outputs:
        plain = call(pipe, **case.options)
    assert list(outputs) == timesteps(pipe)
    with replayed_outputs(pipe, outputs, list(outputs)[:2]):
        assert torch.equal(call(pipe, **case.options), plain)


def test_attention_maps_lie_over_the_generated_picture(case: Case, pipe: Any) -> None:
    plain = call(pipe, **case.options)
    with capture_cross_attention(pipe, timesteps(pipe)) as captured:
        assert torch.equal(call(pipe, **case.options), plain)
    assert set(captured.grids.values()) == {(2, 6)}
    for maps in captured.maps.values():
        assert maps.shape == (2, POSITIONS, case.options["max_sequence_length"])
        torch.testing.assert_close(maps.sum(-1), torch.ones(2, POSITIONS))


def test_latents_are_those_of_the_generated_picture(case: Case, pipe: Any) -> None:
    adapter = adapter_of(pipe)
    assert adapter.latent_channels == 4
    assert adapter.unpack(call(pipe, **case.options), 4, 12).shape == (2, 4, 4, 12)


def test_uncond_is_refused_where_there_is_none(case: Case, pipe: Any) -> None:
    if len(case.branches) == 2:
        pytest.skip("guidance runs")
    with (
        pytest.raises(UserError, match="no uncond branch"),
        capture_updates(pipe, BLOCKS, timesteps(pipe)),
    ):
        call(pipe, **case.options)


@pytest.mark.parametrize("name", ["fill", "control"])
def test_the_stages_make_no_picture_with_a_pipeline_that_needs_one(name: str) -> None:
    pipe = seeded(CASES[name].make, 0)
    with pytest.raises(UserError, match="needs a picture besides the prompt"):
        generate(pipe, ["a cat"], [0], steps=2, guidance=3.5)
