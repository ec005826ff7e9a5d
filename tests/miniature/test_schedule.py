"""The noise schedules, and the training that fits them."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from diffusae.miniature.denoiser import SkipDropping
from diffusae.miniature.schedule import SCHEDULES
from diffusae.miniature.shipped import SHIPPED


def log_snr(scheduler: DDIMScheduler) -> np.ndarray:
    kept = scheduler.alphas_cumprod.double().numpy()
    return np.log(kept / (1 - kept))


def stable_diffusion() -> DDIMScheduler:
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def test_the_shifted_schedule_has_stable_diffusions_log_snr_plus_2_log_4():
    difference = log_snr(SCHEDULES["shifted"].scheduler()) - log_snr(stable_diffusion())
    np.testing.assert_allclose(difference[:999], 2 * np.log(64 / 16), atol=2e-3)


def test_the_first_step_of_the_shifted_schedule_starts_from_pure_noise():
    scheduler = SCHEDULES["shifted"].scheduler()
    scheduler.set_timesteps(25)
    assert scheduler.timesteps.tolist() == list(range(999, 0, -40))
    assert scheduler.alphas_cumprod[999] < 1e-5
    noise, start = torch.randn(2, 3, 8, 16, 16)
    last: Any = torch.tensor([999] * 3)  # diffusers wants its own type
    velocity = scheduler.get_velocity(start, noise, last)
    torch.testing.assert_close(velocity, -start, atol=1e-2, rtol=0)
    assert scheduler.final_alpha_cumprod == 1  # the last step leaves no noise


def test_a_scheduler_survives_its_config():
    scheduler = SCHEDULES["shifted"].scheduler()
    config = json.loads(json.dumps(dict(scheduler.config)))
    again = DDIMScheduler.from_config(config)
    np.testing.assert_array_equal(again.alphas_cumprod, scheduler.alphas_cumprod)  # type: ignore[attr-defined]


def test_the_plain_schedule_is_that_of_the_shipped_weights():
    shipped = json.loads((SHIPPED / "scheduler" / "scheduler_config.json").read_text())
    made = SCHEDULES["plain"].scheduler().config
    assert {name: made[name] for name in shipped if not name.startswith("_")} == {
        name: value for name, value in shipped.items() if not name.startswith("_")
    }


def test_timesteps_lie_in_range_and_the_shifted_schedule_trains_its_start():
    rng = np.random.default_rng(0)
    for name, at_start in (("plain", 0.001), ("shifted", 0.025)):
        drawn = np.array([SCHEDULES[name].timestep(rng) for _ in range(4000)])
        assert drawn.min() >= 0
        assert drawn.max() <= 999
        assert np.mean(drawn == 999) == pytest.approx(at_start, abs=0.01)


def test_three_quarters_of_the_timesteps_have_the_noise_at_which_shapes_are_decided():
    """Medians by hand: sigmoid(-0.5) is .378 of the plain schedule, whose log-SNR there is the
    shifted schedule's near timestep 764."""
    plain, shifted = log_snr(stable_diffusion()), log_snr(SCHEDULES["shifted"].scheduler())
    same = int(np.abs(shifted - plain[378]).argmin())
    assert same == pytest.approx(764, abs=2)
    rng = np.random.default_rng(0)
    drawn = np.array([SCHEDULES["shifted"].timestep(rng) for _ in range(4000)])
    assert np.median(drawn) == pytest.approx(736, abs=20)  # a quarter is uniform, median 500
    assert np.mean(drawn < 250) == pytest.approx(0.25 * 0.25, abs=0.02)


def test_dropped_skips_change_their_own_picture_alone():
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=2, out_channels=2, cross_attention_dim=8, norm_num_groups=2,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=(4, 8), layers_per_block=1, attention_head_dim=2,
    ).eval()  # fmt: skip
    inputs = torch.randn(3, 2, 8, 8), torch.tensor([1, 500, 900]), torch.randn(3, 4, 8)

    @torch.no_grad()
    def run() -> torch.Tensor:
        return unet(inputs[0], inputs[1], encoder_hidden_states=inputs[2]).sample

    whole = run()
    skips = SkipDropping(unet)
    torch.testing.assert_close(run(), whole)
    skips.kept = torch.ones(3, 2)
    torch.testing.assert_close(run(), whole)
    for block in (0, 1):
        skips.kept = torch.ones(3, 2)
        skips.kept[1, block] = 0
        changed = (run() - whole).abs().amax(dim=(1, 2, 3))
        assert changed[1] > 1e-3
        assert changed[[0, 2]].max() < 1e-5
