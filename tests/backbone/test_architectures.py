"""The published sizes of the models in conf/model, built without memory."""

import re
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from omegaconf import OmegaConf

from diffusae.backbone.describe import ARCHITECTURES, build_denoiser, describe, known_architectures
from diffusae.backbone.families.table import adapter_for, list_hookpoints
from diffusae.backbone.hookpoints import find
from diffusae.cli import config_directory
from diffusae.errors import UserError

MODELS = sorted(
    path
    for path in (config_directory() / "model").glob("*.yaml")
    if path.stem not in ("_common", "custom") and not path.stem.startswith("miniature")
)

# Blocks, latent channels, pixels of the default size, and millions of parameters of the denoiser: a
# wrong width or depth would show. From the papers and model cards that the architectures name.
PUBLISHED = {
    "sd14": (16, 4, 512, 860),
    "sd15": (16, 4, 512, 860),
    "sd21": (16, 4, 768, 866),
    "sdxl": (11, 4, 1024, 2_567),
    "sdxl_turbo": (11, 4, 512, 2_567),
    "sd3": (24, 16, 1024, 2_028),
    "flux_schnell": (57, 16, 1024, 11_891),
    "flux_dev": (57, 16, 1024, 11_901),
    "pixart_alpha": (28, 4, 1024, 611),
}
# {path: (h, w, d_in)}, from the same.
BLOCKS = {
    "sd14": {
        "down_blocks.0.attentions.0": (64, 64, 320),
        "down_blocks.1.attentions.1": (32, 32, 640),
        "down_blocks.2.attentions.1": (16, 16, 1280),
        "mid_block.attentions.0": (8, 8, 1280),
        "up_blocks.1.attentions.0": (16, 16, 1280),
        "up_blocks.3.attentions.2": (64, 64, 320),
    },
    "sd15": {
        "down_blocks.2.attentions.1": (16, 16, 1280),
        "mid_block.attentions.0": (8, 8, 1280),
        "up_blocks.1.attentions.0": (16, 16, 1280),
    },
    "sd21": {
        "down_blocks.2.attentions.1": (24, 24, 1280),
        "mid_block.attentions.0": (12, 12, 1280),
        "up_blocks.1.attentions.0": (24, 24, 1280),
    },
    "sdxl": {
        "down_blocks.1.attentions.0": (64, 64, 640),
        "down_blocks.2.attentions.1": (32, 32, 1280),
        "mid_block.attentions.0": (32, 32, 1280),
        "up_blocks.0.attentions.1": (32, 32, 1280),
    },
    "sdxl_turbo": {
        "down_blocks.2.attentions.1": (16, 16, 1280),
        "mid_block.attentions.0": (16, 16, 1280),
        "up_blocks.0.attentions.0": (16, 16, 1280),
        "up_blocks.0.attentions.1": (16, 16, 1280),
    },
    "sd3": {"transformer_blocks.0": (64, 64, 1536), "transformer_blocks.23": (64, 64, 1536)},
    "flux_schnell": {
        "transformer_blocks.18": (64, 64, 3072),
        "single_transformer_blocks.37": (64, 64, 3072),
    },
    "flux_dev": {
        "transformer_blocks.0": (64, 64, 3072),
        "single_transformer_blocks.0": (64, 64, 3072),
    },
    "pixart_alpha": {
        "transformer_blocks.0": (64, 64, 1152),
        "transformer_blocks.27": (64, 64, 1152),
    },
}


def test_every_configured_model_has_its_published_architecture_and_none_is_left_over():
    configured = {path.stem for path in MODELS}
    assert configured == set(known_architectures()) == set(PUBLISHED) == set(BLOCKS)


@pytest.mark.parametrize("name", PUBLISHED)
def test_hookpoints_widths_and_grids_are_the_published_ones(name: str) -> None:
    (blocks, _, pixels, _), expected = PUBLISHED[name], BLOCKS[name]
    described = describe("owner/name", architecture=name)
    finest = (pixels // described.scale,) * 2
    known = described.hookpoints
    assert len(known) == blocks
    assert {p: (*known[p].grid(*finest), known[p].d_in) for p in expected} == expected
    assert described.latent_scale == 8
    assert described.reads_text


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_denoiser_has_the_published_number_of_parameters_and_latent_channels(name: str) -> None:
    parts = OmegaConf.to_container(OmegaConf.load(ARCHITECTURES / f"{name}.json"))
    assert isinstance(parts, dict)
    denoiser = build_denoiser(parts["denoiser"])
    assert all(parameter.is_meta for parameter in denoiser.parameters())
    millions = sum(parameter.numel() for parameter in denoiser.parameters()) / 1e6
    assert millions == pytest.approx(PUBLISHED[name][3], rel=0.005)
    channels = adapter_for(denoiser).latent_channels
    assert channels == parts["vae"]["latent_channels"] == PUBLISHED[name][1]


def test_flux_has_its_double_stream_blocks_first_and_then_the_single_ones() -> None:
    kinds = [
        info.kind for info in describe("owner/name", architecture="flux_dev").hookpoints.values()
    ]
    assert kinds == ["FluxTransformerBlock"] * 19 + ["FluxSingleTransformerBlock"] * 38


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_models_config_says_what_its_architecture_is(path: Path) -> None:
    """Hookpoints with the shapes in their comments, layout of guidance, scale, and pipeline
    class."""
    model: Any = OmegaConf.load(path)
    described = describe(
        model.source, architecture=model.architecture, text_tokens=model.get("text_tokens")
    )
    comments = dict(re.findall(r"^  (\w+): \S+ # (\d+x\d+x\d+)", path.read_text(), re.MULTILINE))
    assert set(comments) == set(model.hookpoints) == {"down", "mid", "up"}
    finest = (model.height // described.scale, model.width // described.scale)
    for block, wanted in model.hookpoints.items():
        info = find(described.hookpoints, wanted)
        assert "x".join(map(str, (*info.grid(*finest), info.d_in))) == comments[str(block)]
    assert model.guidance_layout == described.layout
    assert model.latent_scale == described.latent_scale
    assert model.height == model.width == PUBLISHED[path.stem][2]
    assert hasattr(diffusers, described.pipeline)
    assert re.fullmatch(r"[0-9a-f]{40}", model.revision)


@torch.no_grad()
# Sizes of others
@pytest.mark.parametrize("name", sorted(set(PUBLISHED) - {"sd15", "sdxl_turbo", "flux_schnell"}))
def test_the_true_sizes_run_and_give_the_announced_grids_on_the_meta_device(name: str) -> None:
    """In one denoiser call, every block's output has the announced positions and channels."""
    _, channels, pixels, _ = PUBLISHED[name]
    parts = OmegaConf.to_container(OmegaConf.load(ARCHITECTURES / f"{name}.json"))
    assert isinstance(parts, dict)
    denoiser = build_denoiser(parts["denoiser"])
    adapter, side = adapter_for(denoiser), pixels // 8
    seen: dict[str, tuple[int, ...]] = {}
    for path in list_hookpoints(denoiser):
        denoiser.get_submodule(path).register_forward_hook(
            lambda _m, _a, output, path=path: seen.update(
                {path: tuple((output if isinstance(output, torch.Tensor) else output[-1]).shape)}
            )
        )
    config, words = denoiser.config, 77
    with torch.device("meta"):
        width = config.get("cross_attention_dim") or config.get("joint_attention_dim")
        given: dict[str, Any] = {
            "encoder_hidden_states": torch.zeros(1, words, config.get("caption_channels") or width)
        }
        if "pooled_projection_dim" in config:
            given["pooled_projections"] = torch.zeros(1, config.pooled_projection_dim)
        if config.get("addition_embed_type") == "text_time":
            added = {"text_embeds": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6)}
            given["added_cond_kwargs"] = added
        if config.get("caption_channels"):
            given["added_cond_kwargs"] = {
                "resolution": torch.zeros(1, 2),
                "aspect_ratio": torch.zeros(1, 1),
            }
        if "axes_dims_rope" in config:
            given |= {"img_ids": torch.zeros((side // 2) ** 2, 3), "txt_ids": torch.zeros(words, 3)}
            given["guidance"] = torch.ones(1) if config.guidance_embeds else None
        predicted = adapter.predict(given, torch.zeros(1, channels, side, side), 500.0)
    assert predicted.shape == (1, channels, side, side)
    finest = (side // adapter.patch, side // adapter.patch)
    for path, info in list_hookpoints(denoiser).items():
        height, width = info.grid(*finest)
        unet = info.kind == "Transformer2DModel"
        assert seen[path] == (
            (1, info.d_in, height, width) if unet else (1, height * width, info.d_in)
        )


def test_an_unknown_architecture_lists_the_known() -> None:
    with pytest.raises(UserError, match=r"'sd13'; known: flux_dev, .*sd14"):
        describe("owner/name", architecture="sd13")


def test_a_folder_is_read_itself_whatever_architecture_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read .* set model.source to a local folder"):
        describe(tmp_path, architecture="sd14")
