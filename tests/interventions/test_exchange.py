"""Another caption in a part of the generation, in a pipeline of every family."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from diffusae.backbone.families.table import adapter_of
from diffusae.capture.conditions import conditions
from diffusae.capture.generate import generate
from diffusae.errors import UserError
from diffusae.interventions.exchange import Exchange, exchanged_conditions
from tiny_families import FAMILIES, PIXELS, tiny_family

STEPS = 3
OLD, NEW = ["a cat", "dogs"], ["a bee", "owls"]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def pipe(family: str) -> Any:
    return tiny_family(family)


def run(
    pipe: Any,
    family: str,
    captions: Sequence[str] = OLD,
    windows: Sequence[tuple[float, float]] = (),
    others: Sequence[str] = NEW,
    **options: Any,
) -> Any:
    """The pictures of captions, those of the others in their windows."""
    asked = {"height": PIXELS, "width": PIXELS, **FAMILIES[family].asked}
    inside: Any = nullcontext()
    if windows:
        inside = exchanged_conditions(
            pipe,
            [Exchange(*pair) for pair in zip(others, windows, strict=True)],
            conditions(pipe, others, "cond", **asked),
        )
    with inside:
        return generate(pipe, captions, [1, 2], steps=STEPS, decode=False, **asked, **options)


def test_another_caption_throughout_gives_its_own_picture(pipe: Any, family: str) -> None:
    exchanged = run(pipe, family, windows=[(1.0, 0.0)] * 2)
    assert torch.allclose(exchanged.latents, run(pipe, family, NEW).latents, atol=1e-5)
    plain = run(pipe, family).latents  # what was exchanged is back
    assert (exchanged.latents - plain).abs().amax(dim=(1, 2, 3)).min() > 1e-4


def test_every_picture_has_a_window_of_its_own(pipe: Any, family: str) -> None:
    windows = [(1.0, 0.0), (0.2, 0.0)]  # the second one's last step alone
    first, second = run(pipe, family, windows=windows).latents
    old, new = run(pipe, family).latents, run(pipe, family, NEW).latents
    assert torch.allclose(first, new[0], atol=1e-5)
    assert all((second - one[1]).abs().max() > 1e-5 for one in (old, new))


def test_the_unconditional_branch_and_steps_outside_the_window_keep_their_caption(
    pipe: Any, family: str
) -> None:
    unit = pipe.vae_scale_factor * adapter_of(pipe).patch
    times = adapter_of(pipe).schedule(pipe.scheduler, STEPS, (PIXELS // unit) ** 2).tolist()
    recorded = {"hookpoints": FAMILIES[family].hookpoints, "timesteps": times[:2]}
    plain, new = (run(pipe, family, captions, **recorded).updates for captions in (OLD, NEW))
    early = run(pipe, family, windows=[(1.0, 0.9)] * 2, **recorded).updates
    late = run(pipe, family, windows=[(0.5, 0.5)] * 2, **recorded).updates
    for block in FAMILIES[family].hookpoints:
        first = {branch: (block, times[0], branch) for branch in ("cond", "uncond")}
        assert torch.allclose(early[first["cond"]], new[first["cond"]], atol=1e-5)
        assert torch.allclose(early[first["uncond"]], plain[first["uncond"]], atol=1e-6)
        assert torch.equal(late[first["cond"]], plain[first["cond"]])
        second = (block, times[1], "cond")
        assert (late[second] - plain[second]).abs().max() > 1e-5


def test_captions_that_the_model_reads_alike_are_refused() -> None:
    sd = tiny_family("sd")
    with pytest.raises(UserError, match="sees no difference between the caption 'a cat'"):
        run(sd, "sd", windows=[(1.0, 0.0)] * 2, others=["a cat", "owls"])


def test_a_window_without_a_step_is_refused_and_its_hook_leaves() -> None:
    sd = tiny_family("sd")
    with pytest.raises(UserError, match=r"no step lies in the window \[0.4, 0.3\]"):
        run(sd, "sd", windows=[(1.0, 0.0), (0.4, 0.3)])
    assert not sd.unet._forward_pre_hooks
