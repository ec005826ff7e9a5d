"""Stable Diffusion 1.4's U-Net at its true size, with random weights: one captured step on a
CPU."""

import json
from typing import Any

import pytest
import torch
from torch import nn

from diffusae.backbone.describe import ARCHITECTURES, build_denoiser
from diffusae.capture.attention import capture_cross_attention
from diffusae.capture.generate import generate
from tiny_families import sd
from tiny_pipeline import text_encoder

SHAPES = {
    "down": ("down_blocks.2.attentions.1", (16, 16, 1280)),
    "mid": ("mid_block.attentions.0", (8, 8, 1280)),
    "up": ("up_blocks.1.attentions.0", (16, 16, 1280)),
}


def random_unet() -> Any:
    """860 million parameters in float32, 3.4 GB: initial norms, small random values otherwise."""
    unet = build_denoiser(
        json.loads((ARCHITECTURES / "sd14.json").read_text())["denoiser"]
    ).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for module in unet.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, nn.GroupNorm | nn.LayerNorm):
                parameter.data.fill_(float(name == "weight"))
            else:
                parameter.data.normal_(0, 0.02, generator=generator)
    return unet.eval()


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_one_step_of_stable_diffusion_1_4_is_captured_at_the_papers_shapes() -> None:
    pipe = sd()
    pipe.unet, pipe.text_encoder = (
        random_unet(),
        text_encoder(hidden_size=768, num_attention_heads=12),
    )
    pipe.set_progress_bar_config(disable=True)
    seen: dict[str, torch.Tensor] = {}
    for block, (path, _) in SHAPES.items():
        pipe.unet.get_submodule(path).register_forward_hook(
            lambda _m, args, output, block=block: seen.update({block: output[0] - args[0]})
        )
    times = [1]
    with capture_cross_attention(pipe, times, hookpoints={"mid": SHAPES["mid"][0]}) as attention:
        made = generate(
            pipe,
            ["a cat"],
            [0],
            steps=1,
            guidance=7.5,
            decode=False,
            height=512,
            width=512,
            timesteps=times,
            hookpoints={block: path for block, (path, _) in SHAPES.items()},
        )
    assert made.latents.shape == (1, 4, 64, 64)
    assert made.nonfinite == {}
    for block, (_, (height, width, d_in)) in SHAPES.items():
        assert made.grids[block] == (height, width)
        for row, conditioning in enumerate(("uncond", "cond")):
            update = made.updates[block, 1, conditioning]
            assert update.shape == (1, height * width, d_in)
            assert torch.equal(update[0], seen[block][row].flatten(1).T)
    assert attention.maps["mid", 1].shape == (1, 64, 16)
