"""Safe latent guidance: the formula by hand, and a call compared with diffusers' own pipeline."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from diffusae.errors import UserError
from diffusae.interventions.safe_guidance import (
    PRESETS,
    SafeGuidance,
    preset,
    safe_guidance,
    safety_term,
)
from tiny_pipeline import tiny_pipeline

CALL: dict[str, Any] = {"guidance": 5.0, "height": 16, "width": 16}


def test_the_formula_by_hand():
    uncond, cond = torch.tensor([0.0, 0.0, 0.0, 1.0]), torch.tensor([0.5, 0.1, 2.0, 1.0])
    concept = torch.tensor([0.6, 1.0, 0.0, 0.8])
    settings = SafeGuidance(scale=2.0, threshold=0.5, warmup=0.0, momentum=0.5, beta=0.75)
    # e_c - e_s = -0.1, -0.9, 2.0, 0.2; mu = 0.2, min(1, 1.8) = 1, 0 (above lambda), 0.4
    # gamma = 0.2 * 0.6 = 0.12, 1 * 1 = 1, 0, 0.4 * -0.2 = -0.08, and 0.5 nu = 0.5
    gamma, momentum = safety_term(uncond, cond, concept, torch.ones(4), settings)
    torch.testing.assert_close(gamma, torch.tensor([0.62, 1.5, 0.5, 0.42]))
    torch.testing.assert_close(momentum, 0.75 + 0.25 * gamma)


def latents() -> torch.Tensor:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def drawn(pipe: Any, output_type: str = "latent", **options: Any) -> Any:
    return pipe(
        ["a cat", "dogs"],
        num_inference_steps=5,
        guidance_scale=5.0,
        latents=latents(),
        output_type=output_type,
        **options,
    ).images


@pytest.mark.parametrize("name", ["medium", "max"])
def test_a_whole_call_equals_diffusers_own_safe_pipeline(pipe, name):
    from diffusers.pipelines.deprecated.stable_diffusion_safe.pipeline_stable_diffusion_safe import (  # noqa: E501
        StableDiffusionPipelineSafe,
    )

    absent: Any = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs: Any = StableDiffusionPipelineSafe(
            vae=pipe.vae,
            text_encoder=pipe.text_encoder,
            tokenizer=pipe.tokenizer,
            unet=pipe.unet,
            scheduler=pipe.scheduler,
            safety_checker=absent,
            feature_extractor=absent,
            requires_safety_checker=False,
        )
    theirs.set_progress_bar_config(disable=True)
    theirs.safety_concept = "cat"
    settings = PRESETS[name]
    wanted = drawn(
        theirs,
        output_type="np",  # it decodes whatever it is asked for
        sld_guidance_scale=settings.scale,
        sld_warmup_steps=round(settings.warmup * 5),
        sld_threshold=settings.threshold,
        sld_momentum_scale=settings.momentum,
        sld_mom_beta=settings.beta,
    )
    with safe_guidance(pipe, "cat", settings, **CALL):
        ours = drawn(pipe, output_type="np")
    np.testing.assert_allclose(ours, wanted, atol=1e-4)
    assert np.abs(ours - drawn(pipe, output_type="np")).max() > 0.01


def test_the_pipeline_is_unchanged_afterwards_and_after_an_error(pipe):
    plain, stop = drawn(pipe), pytest.raises(RuntimeError, match="stop")
    with stop, safe_guidance(pipe, "cat", PRESETS["max"], **CALL):
        raise RuntimeError("stop")
    assert torch.equal(drawn(pipe), plain)
    assert "forward" not in vars(pipe.unet)


def test_momentum_starts_again_with_every_call(pipe):
    with safe_guidance(pipe, "cat", PRESETS["max"], **CALL):
        assert torch.equal(drawn(pipe), drawn(pipe))


def test_a_call_without_guidance_and_an_unknown_name_are_refused():
    pipe, refused = tiny_pipeline(), pytest.raises(UserError, match="one batch")
    with safe_guidance(pipe, "cat", PRESETS["max"], **CALL), refused:
        pipe(["a cat"], num_inference_steps=2, guidance_scale=1.0, output_type="latent")
    with pytest.raises(UserError, match=r"unknown safe guidance 'huge'.*max, medium"):
        preset("huge")
