"""Blocks that hold text and picture in one sequence: FLUX.2's and Chroma's."""

from typing import Any

import pytest
import torch
from torch import Tensor

from diffusae.backbone.families.table import adapter_of
from diffusae.capture.generate import generate
from diffusae.interventions.edits import Edit
from diffusae.interventions.steer import steer
from flux.given_pictures import BLOCKS, POSITIONS, PROMPTS, SIZE, STEPS, replaced
from tiny_families import T5_TOKENS
from tiny_families.chroma import chroma
from tiny_families.flux2 import TOKENS, dev, klein
from tiny_pipeline import seeded

MAKE = {"flux2_dev": dev, "flux2_klein": klein, "chroma": chroma}
PATH = str(BLOCKS["single"])


@pytest.fixture(scope="module", params=MAKE)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def pipe(name: str) -> Any:
    return seeded(MAKE[name], 0)


@pytest.fixture(scope="module")
def branches(name: str) -> list[str]:
    return ["cond"] if name == "flux2_dev" else ["cond", "uncond"]


@pytest.fixture(scope="module")
def text(name: str) -> int:
    return T5_TOKENS if name == "chroma" else TOKENS


def make(pipe: Any, text: int, **options: Any) -> Any:
    asked: dict[str, Any] = {"steps": STEPS, "guidance": 4.0, "text_tokens": text, "decode": False}
    asked |= SIZE
    return generate(pipe, PROMPTS, [1, 2], **asked | options)


def timesteps(pipe: Any) -> list[float]:
    return adapter_of(pipe).schedule(pipe.scheduler, STEPS, POSITIONS).tolist()


def test_the_update_is_that_of_the_tokens_after_the_text(
    pipe: Any, text: int, branches: list[str]
) -> None:
    seen: list[Tensor] = []

    def look(sequence: Tensor, output: Tensor) -> None:
        assert sequence.shape[1] == text + POSITIONS
        seen.append((output - sequence)[:, text:])

    asked: dict[str, Any] = {"hookpoints": {"single": PATH}, "timesteps": timesteps(pipe)}
    with replaced(pipe, PATH, look):
        made = make(pipe, text, conditionings=branches, **asked)
    assert made.grids == {"single": (2, 6)}
    calls = iter(seen)
    for timestep in timesteps(pipe):
        for branch in branches:
            assert torch.equal(made.updates["single", timestep, branch], next(calls))
    assert next(calls, None) is None


def test_an_edit_leaves_the_text_as_it_is(pipe: Any, text: int, branches: list[str]) -> None:
    plain, branch = make(pipe, text).latents, branches[-1]
    push = 2 * torch.randn(POSITIONS, 32, generator=torch.Generator().manual_seed(5))
    numbers = iter(range(99))

    def by_hand(_sequence: Tensor, output: Tensor) -> None:
        step, place = divmod(next(numbers), len(branches))
        if step == 1 and branches[place] == branch:
            output[:, text:] += push

    with replaced(pipe, PATH, by_hand):
        expected = make(pipe, text).latents
    edit = Edit(PATH, lambda _updates, _grid: push, window=(0.6, 0.4), conditionings=(branch,))
    with steer(pipe, [edit]):
        edited = make(pipe, text).latents
    torch.testing.assert_close(edited, expected, rtol=1e-4, atol=1e-5)
    assert (edited - plain).abs().amax(dim=(1, 2, 3)).min() > 1e-4
