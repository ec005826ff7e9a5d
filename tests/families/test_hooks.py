"""Hooks: they see the picture's tokens of every block, and change nothing."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffusae.backbone.families.table import list_hookpoints
from diffusae.capture.attention import capture_cross_attention
from diffusae.capture.hooks import hook_blocks
from families.running import PROMPTS, SIZE, Case


def test_the_listed_blocks_have_the_width_and_grid_of_the_real_ones(case: Case) -> None:
    known = list_hookpoints(case.denoiser)
    *frames, height, width = case.family.latents_of(**SIZE)[1:]
    finest = (*frames, height // case.adapter.patch, width // case.adapter.patch)
    for block, (path, _, d_in) in case.family.blocks.items():
        assert known[path].d_in == d_in
        assert known[path].grid(*finest) == case.grid(block)
        assert known[path].kind == type(case.denoiser.get_submodule(path)).__name__


@pytest.mark.parametrize("guided", [True, False])
def test_pictures_with_hooks_are_the_pictures_without_to_the_bit(case: Case, guided: bool) -> None:
    options: dict[str, Any] = {"decode": True} | ({} if guided else case.family.unguided)
    without = case.make(**options)
    if case.family.attention is None:
        hooked = case.record(conditionings=["cond"], **options)
    else:
        with capture_cross_attention(case.pipe, case.timesteps()):
            hooked = case.record(conditionings=["cond"], **options)
    assert torch.equal(hooked.latents, without.latents)
    assert hooked.images is not None and without.images is not None
    assert np.array_equal(hooked.images, without.images)
    assert hooked.images.std() > 1  # a picture, not one colour
    modules = list(case.denoiser.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    left = vars(case.pipe).keys() | vars(case.denoiser).keys()
    assert not {"cache_context", "encode_prompt", "forward"} & left


def test_positions_are_row_major_over_the_picture(case: Case) -> None:
    """A change of the latents at one place changes the first block's input there most."""
    given = case.conditions("cond", PROMPTS[:1])
    latents, patch, time = case.latents()[:1], case.adapter.patch, case.timesteps()[1]
    inputs: list[Tensor] = []

    def look(_block: str, moment: Any, before: Tensor) -> None:
        assert moment.grid == case.grid("down")
        inputs.append(before[0])

    height, width = latents.shape[-2] // patch, latents.shape[-1] // patch
    row, column = height - 1, width - 2
    with torch.no_grad(), hook_blocks(case.pipe, {"down": f"{case.paths['down']}:before"}, look):
        case.adapter.predict(given, latents, time)
        latents[..., patch * row, patch * column] += 10.0
        case.adapter.predict(given, latents, time)
    changed = (inputs[1] - inputs[0]).norm(dim=-1).unflatten(0, case.grid("down"))
    place = torch.unravel_index(changed.argmax(), changed.shape)[-2:]
    # A U-Net's convolutions have mixed neighbours before its first block
    mixed = 1 if patch == 1 else 0
    assert abs(int(place[0]) - row) <= mixed and abs(int(place[1]) - column) <= mixed
