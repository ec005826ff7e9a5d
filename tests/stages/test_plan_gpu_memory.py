"""GPU memory of a model before it loads: exact weights, estimates above what is alive, and the
choice that fits a card."""

import json
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from composing import compose
from diffusae.backbone.component_configs import on_meta
from diffusae.backbone.component_sizes import by_component
from diffusae.backbone.describe import ARCHITECTURES, build_denoiser, configurations, describe
from diffusae.backbone.families.table import adapter_for
from diffusae.backbone.settings import ModelSettings
from diffusae.planning.estimate import estimate
from diffusae.planning.gpu_memory import (
    CONTEXT,
    DECODER_NUMBERS,
    MARGIN,
    SAE_NUMBERS,
    TRANSFORMER_NUMBERS,
    UNET_NUMBERS,
    Choice,
    GpuMemory,
)
from diffusae.planning.gpu_tables import fitting
from diffusae.sae.module import adam
from diffusae.stages import plan as stage
from diffusae.study.model import describe_model
from diffusae.study.study import Study
from diffusae.training.train import module_of
from live_memory import LiveMemory, fused_attention

UNET, VAE, CLIP = 859_520_964, 83_653_863, 123_060_480
COND = ("grid.conditionings=[cond]", "conditioning=cond")
LATENTS, PIXELS = 64 * 64, 512 * 512


def memory_of(*overrides: str, model: str = "sd14") -> GpuMemory:
    options = ["debug=tiny", f"model={model}", "model.dtype=float16", "model.batch_size=3"]
    study = Study(compose("plan", overrides=[*options, "grid.blocks=[mid]", *overrides]))
    description = describe_model(ModelSettings.of(study.cfg))
    return GpuMemory(study, description, estimate(study, description))


def with_margin(numbers: int) -> int:
    return round(MARGIN * 2 * numbers)


def test_every_way_to_offload_holds_the_weights_that_it_says_and_the_activations() -> None:
    """Stable Diffusion 1.4 in float16, three pictures of 512 x 512 under guidance: six rows."""
    needs = {need.choice.offload: need for need in memory_of().choices()}
    update = 8 * 8 * 1280
    denoising = with_margin(6 * (UNET_NUMBERS * LATENTS * 320 + 2 * update))
    decoding = with_margin(3 * DECODER_NUMBERS * PIXELS * 128)
    whole = 2 * (UNET + VAE + CLIP)
    assert vars(needs["none"]) == {
        "choice": needs["none"].choice,
        "weights": whole,
        "encoding": whole,
        "denoising": whole + denoising,
        "decoding": whole + decoding,
    }
    assert needs["none"].peak == whole + max(denoising, decoding) + CONTEXT
    assert needs["model"].encoding == 2 * CLIP
    assert needs["model"].denoising == 2 * UNET + denoising
    assert needs["model"].decoding == 2 * VAE + decoding
    # Its largest layer is a convolution of 2560 to 1280 channels; its largest block the second of
    # the upper half (component_sizes.json).
    assert needs["sequential"].weights == 2 * (2560 * 1280 * 9 + 1280)
    assert needs["group"].weights == 2 * (99_112_644 + 258_330_880)


def test_slices_and_branches_change_what_they_should() -> None:
    plain = memory_of().configured
    sliced = memory_of("model.vae_slicing=true").configured
    assert sliced.decoding - sliced.weights == pytest.approx((plain.decoding - plain.weights) / 3)
    assert sliced.denoising == plain.denoising
    alone = memory_of(
        "model.guidance=1", "grid.conditionings=[cond]", "conditioning=cond"
    ).configured
    assert alone.denoising - alone.weights == pytest.approx((plain.denoising - plain.weights) / 2)


@pytest.mark.parametrize(("model", "rows"), [("z_image", 2), ("chroma", 1)])
def test_both_branches_are_in_memory_where_one_batch_holds_them(model: str, rows: int) -> None:
    """Z-Image's batch is [cond, uncond]; Chroma has a pass for every branch."""
    both, alone = (
        memory_of(f"model.guidance={scale}", *COND, model=model).configured for scale in (4.0, 0.0)
    )
    of_both, of_one = (need.denoising - need.weights for need in (both, alone))
    assert of_both == pytest.approx(rows * of_one)


@pytest.mark.parametrize(
    ("quantization", "stored"), [("bnb8", 1.0), ("torchao_int8", 1.0), ("bnb4", 0.5 + 4 / 64)]
)
def test_quantisation_shrinks_linear_layers_of_the_denoiser_and_of_t5_alone(
    quantization: str, stored: float
) -> None:
    options = f"model.quantization={quantization}", "model.dtype=bfloat16"
    memory = memory_of(*options, *COND, model="flux_dev")
    sizes = memory.size.components
    expected = 2 * (sizes["vae"].parameters + sizes["text_encoder"].parameters)
    for name in ("denoiser", "text_encoder_2"):
        linear = sizes[name].linear
        expected += round(2 * (sizes[name].parameters - linear) + stored * linear)
    assert memory.configured.weights == expected
    assert [need.choice.offload for need in memory.choices()] == ["none", "model"]


def test_a_gguf_file_counts_by_its_own_size(tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(b"GGUF" + bytes(996))
    assert memory_of(f"model.gguf={file}").configured.weights == 1000 + 2 * (VAE + CLIP)


def test_the_choice_for_a_card_fits_and_none_that_is_less_slow_does() -> None:
    memory = memory_of(model="sdxl")
    choices = list(memory.ever_slower())
    found = set()
    for gb in (4, 5, 6, 7, 8, 10, 12, 16, 24):
        need = memory.least_slow(gb * 1e9)
        if need is None:
            before = choices
        else:
            assert need.peak <= gb * 1e9
            before = list(takewhile(lambda choice, need=need: choice != need.choice, choices))
            found.add(need.choice)
        assert all(memory.need(choice).peak > gb * 1e9 for choice in before)
    assert len(found) > 2
    assert memory.least_slow(24e9) == memory.configured
    assert fitting(memory, 24).endswith("as configured")
    assert fitting(memory, 0.5).startswith("nothing fits 0.5 GB")


def test_the_overrides_of_a_choice_make_it_the_configured_one() -> None:
    memory = memory_of(model="sdxl")
    for choice in list(memory.ever_slower())[::4]:
        overrides = choice.overrides(Choice.configured(memory.model)).split()
        assert Choice.configured(memory_of(*overrides, model="sdxl").model) == choice


def test_the_plan_shows_and_keeps_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["plan.seconds_per_picture=1", "plan.vectors_per_second=1000", "plan.gpu_gb=6"]
    options = ["debug=tiny", f"paths.outputs={tmp_path}", "model=sd14", "model.batch_size=1"]
    cfg = compose("plan", overrides=[*options, *given])
    stage.plan(cfg)
    shown = capsys.readouterr().out
    assert "GPU memory (* as configured)" in shown and "fits 6 GB" in shown
    kept = json.loads((Study(cfg).directory / "plan.json").read_text())["gpu"]
    memory = memory_of("model.batch_size=1", "grid.blocks=[down,mid,up]")
    assert [one["peak"] for one in kept["choices"]] == [one.peak for one in memory.choices()]
    assert kept["least_slow"]["overrides"] in shown
    assert kept["training"] > 0 and kept["captured"] > 0


# {model: (pixels, what is alive at most of the estimate)}
ALIVE = {
    "sd14": (512, 1.0),
    "sdxl": (512, 0.61),
    "flux_dev": (512, 0.98),
    "sd3": (512, 0.69),
    "pixart_alpha": (512, 0.62),
}


@torch.no_grad()
# Slow: more blocks; `sd14` and `sd3` have the same kinds of denoisers.
@pytest.mark.parametrize(
    "name",
    [
        name if name in ("sd14", "sd3") else pytest.param(name, marks=pytest.mark.slow)
        for name in ALIVE
    ],
)
def test_the_estimate_of_the_denoiser_is_not_below_what_is_alive_at_a_time(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, share = ALIVE[name]
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", fused_attention)
    parts: Any = json.loads((ARCHITECTURES / f"{name}.json").read_text())
    denoiser = build_denoiser(parts["denoiser"]).to(torch.bfloat16)
    described, adapter = describe("owner/name", architecture=name), adapter_for(denoiser)
    side = pixels // described.latent_scale
    channels, config = parts["vae"]["latent_channels"], denoiser.config
    with torch.device("meta"):
        conditions = _conditions(config, described.tokens, side // adapter.patch)
        latents = torch.zeros(1, channels, side, side, dtype=torch.bfloat16)
        with LiveMemory(denoiser) as live:
            adapter.predict(conditions, latents, 500.0)
    if "block_out_channels" in config:
        estimated = UNET_NUMBERS * side**2 * config.block_out_channels[0]
    else:
        tokens = (side // adapter.patch) ** 2 + described.tokens
        width = config.num_attention_heads * config.attention_head_dim
        estimated = TRANSFORMER_NUMBERS * tokens * width
    assert live.peak / 2 / estimated == pytest.approx(share, abs=0.03)
    assert live.peak / 2 < 1.01 * estimated


def _conditions(config: Any, words: int, grid: int) -> dict[str, Any]:
    """The arguments of a denoiser besides latents and time, for one row."""

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(1, *shape, dtype=torch.bfloat16)

    width = config.get("cross_attention_dim") or config.get("joint_attention_dim")
    given: dict[str, Any] = {
        "encoder_hidden_states": zeros(words, config.get("caption_channels") or width)
    }
    if "pooled_projection_dim" in config:
        given["pooled_projections"] = zeros(config.pooled_projection_dim)
    if config.get("addition_embed_type") == "text_time":
        given["added_cond_kwargs"] = {"text_embeds": zeros(1280), "time_ids": zeros(6)}
    if config.get("caption_channels"):
        given["added_cond_kwargs"] = {"resolution": zeros(2), "aspect_ratio": zeros(1)}
    if "axes_dims_rope" in config:
        given |= {"img_ids": torch.zeros(grid**2, 3), "txt_ids": torch.zeros(words, 3)}
        given["guidance"] = torch.ones(1)
    return given


@torch.no_grad()
def test_the_estimate_of_the_decoder_is_what_is_alive_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", fused_attention)
    parts = by_component(configurations("owner/name", architecture="sd14"))
    vae: Any = on_meta(parts["vae"], "sd14").to(torch.bfloat16)
    with LiveMemory(vae) as live:
        vae.decode(torch.zeros(1, 4, 32, 48, dtype=torch.bfloat16, device="meta"))
    estimated = DECODER_NUMBERS * 256 * 384 * 128
    assert live.peak / 2 == pytest.approx(estimated, rel=0.01)


@pytest.mark.parametrize(
    ("options", "share"),
    [
        (("trainer.kernels=torch",), 0.4),
        (("trainer.kernels=dense",), 0.5),
        (("trainer.kernels=dense", "sae=jumprelu"), 0.9),
    ],
)
def test_the_estimate_of_a_training_step_is_not_below_what_is_alive_at_a_time(
    options: tuple[str, ...], share: float
) -> None:
    """On the CPU, beside the weights, their gradients and Adam's moments."""
    d_in, d_sae, batch = 128, 2048, 512
    sizes = [f"sae.d_sae={d_sae}", f"activations.batch_size={batch}"]
    module = module_of(Study(compose("train", overrides=["debug=tiny", *sizes, *options])), d_in)
    vectors = torch.randn(batch, d_in, generator=torch.Generator().manual_seed(1))
    module.initialise(vectors)
    optimiser = adam(module.autoencoder.parameters(), module)
    step = module.step_of(optimiser)
    step({"": vectors})
    kept = [value for state in optimiser.state.values() for value in state.values()]
    kept += [weight.grad for weight in module.autoencoder.parameters() if weight.grad is not None]
    with LiveMemory(module, *(tensor for tensor in kept if isinstance(tensor, Tensor))) as live:
        step({"": vectors})
    assert live.peak / (4 * batch * d_sae * SAE_NUMBERS) == pytest.approx(share, abs=0.2)
    assert live.peak < 4 * batch * (SAE_NUMBERS * d_sae + 4 * d_in)
