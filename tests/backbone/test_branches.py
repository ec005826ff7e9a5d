from types import SimpleNamespace

import pytest
import torch
from torch import nn

from diffusae.backbone.branches import (
    check_conditionings,
    counted_branches,
    planned_branches,
    rows_of,
)
from diffusae.errors import UserError


def test_a_guided_batch_is_uncond_first_then_cond() -> None:
    batch = torch.arange(4)[:, None]
    halves = {
        name: batch[rows_of(name, 4, ("uncond", "cond"))].tolist() for name in ("uncond", "cond")
    }
    assert halves == {"uncond": [[0], [1]], "cond": [[2], [3]]}


def test_an_unguided_batch_is_cond_alone() -> None:
    assert rows_of("cond", 3, ("cond",)) == slice(0, 3)


def test_an_odd_guided_batch_is_refused() -> None:
    with pytest.raises(UserError, match="3 rows"):
        rows_of("cond", 3, ("uncond", "cond"))


def test_uncond_without_guidance_explains_itself() -> None:
    with pytest.raises(UserError, match=r"no uncond branch.*guidance scale above 1"):
        check_conditionings(["cond", "uncond"], ("cond",))


def test_an_unknown_conditioning_lists_the_known() -> None:
    with pytest.raises(UserError, match="known: cond, uncond"):
        check_conditionings(["conditional"], ("uncond", "cond"))


@pytest.mark.parametrize(
    ("guidance", "branches"),
    [(7.5, ("uncond", "cond")), (1.01, ("uncond", "cond")), (1.0, ("cond",)), (0.0, ("cond",))],
)
def test_the_plan_and_the_pipeline_agree_on_the_branches(
    pipe, guidance: float, branches: tuple[str, ...]
) -> None:
    with counted_branches(pipe) as held:
        pipe("a cat", num_inference_steps=1, guidance_scale=guidance, output_type="latent")
        assert planned_branches(pipe.unet, guidance) == held() == branches


def test_a_guidance_distilled_model_has_no_uncond() -> None:
    denoiser = nn.Module()
    denoiser.config = type("Config", (), {"time_cond_proj_dim": 256})()  # pyright: ignore
    assert planned_branches(denoiser, 7.5) == ("cond",)


def test_a_pipeline_that_does_not_tell_its_branches_is_refused() -> None:
    silent = SimpleNamespace(unet=type("UNet2DConditionModel", (nn.Identity,), {})())
    with (
        counted_branches(silent) as branches,
        pytest.raises(UserError, match="SimpleNamespace does not tell"),
    ):
        branches()
