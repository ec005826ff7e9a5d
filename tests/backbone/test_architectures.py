"""The published sizes of the models in conf/model, built without memory."""

import inspect
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
    if path.stem not in ("_common", "custom", "wan21", "ltx")
    and not path.stem.startswith("miniature")
)

# Blocks, latent channels, pixels of the default size, and millions of parameters of the denoiser: a
# wrong width or depth would show. From the papers and model cards that the architectures name.
PUBLISHED = {
    "sd14": (16, 4, 512, 860),
    "sd15": (16, 4, 512, 860),
    "sd21": (16, 4, 768, 866),
    "sd_turbo": (16, 4, 512, 866),
    "sdxl": (11, 4, 1024, 2_567),
    "sdxl_turbo": (11, 4, 512, 2_567),
    "sd3": (24, 16, 1024, 2_028),
    "sd35_medium": (24, 16, 1024, 2_243),  # 2.47 billion with the stored 384 x 384 positions
    "sd35_large": (38, 16, 1024, 8_057),
    "sd35_large_turbo": (38, 16, 1024, 8_057),
    "flux_schnell": (57, 16, 1024, 11_891),
    "flux_dev": (57, 16, 1024, 11_901),
    "flux_kontext": (57, 16, 1024, 11_901),
    "flux2_dev": (56, 32, 1024, 32_200),
    "flux2_klein": (25, 32, 1024, 3_876),
    "flux2_klein_base": (25, 32, 1024, 3_876),
    "flux2_klein_9b": (32, 32, 1024, 9_078),
    "chroma": (57, 16, 1024, 8_900),
    "pixart_alpha": (28, 4, 1024, 611),
    # 20.4, 6, 2.6, 17 and 6 billion: what their cards and papers say, to the places that they give.
    "qwen_image": (60, 16, 1024, 20_430),
    "z_image": (34, 16, 1024, 6_155),
    "z_image_turbo": (34, 16, 1024, 6_155),
    "lumina2": (30, 16, 1024, 2_610),
    "hidream": (48, 16, 1024, 17_106),
    "cogview4": (28, 16, 1024, 6_369),
    "pixart_sigma": (28, 4, 1024, 610),
    "sana": (20, 32, 1024, 1_604),
    "sana_sprint": (20, 32, 1024, 1_610),
    "hunyuan_dit": (40, 4, 1024, 1_500),
    "aura_flow": (36, 4, 1024, 6_859),  # published as 6.8 billion
}
SAME_SIZES = {"sd15", "sdxl_turbo", "sd35_large_turbo", "flux_schnell"}
SAME_SIZES |= {"flux_kontext", "flux2_klein_base"}
"""Models with the sizes of others."""
ONE_SEQUENCE = {"z_image", "z_image_turbo", "lumina2", "cogview4"}
"""The text has no keys of its own there."""
UNPINNED = {"hidream"}
"""No commit of its repository was found in a public place."""
# {video: (blocks, latent channels, (frames, h, w, d_in), millions of parameters)}
VIDEOS = {"wan21": (30, 16, (21, 30, 52, 1536), 1_419), "ltx": (28, 128, (21, 16, 22, 2048), 1_923)}
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
    "sd_turbo": {
        "down_blocks.2.attentions.1": (16, 16, 1280),
        "mid_block.attentions.0": (8, 8, 1280),
        "up_blocks.1.attentions.0": (16, 16, 1280),
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
    "sd35_medium": {
        "transformer_blocks.0": (64, 64, 1536),
        "transformer_blocks.23": (64, 64, 1536),
    },
    "sd35_large": {"transformer_blocks.0": (64, 64, 2432), "transformer_blocks.37": (64, 64, 2432)},
    "sd35_large_turbo": {"transformer_blocks.37": (64, 64, 2432)},
    "flux_schnell": {
        "transformer_blocks.18": (64, 64, 3072),
        "single_transformer_blocks.37": (64, 64, 3072),
    },
    "flux_dev": {
        "transformer_blocks.0": (64, 64, 3072),
        "single_transformer_blocks.0": (64, 64, 3072),
    },
    "flux_kontext": {"single_transformer_blocks.37": (64, 64, 3072)},
    "flux2_dev": {
        "transformer_blocks.7": (64, 64, 6144),
        "single_transformer_blocks.47": (64, 64, 6144),
    },
    "flux2_klein": {"single_transformer_blocks.19": (64, 64, 3072)},
    "flux2_klein_base": {"transformer_blocks.4": (64, 64, 3072)},
    "flux2_klein_9b": {"single_transformer_blocks.23": (64, 64, 4096)},
    "chroma": {
        "transformer_blocks.18": (64, 64, 3072),
        "single_transformer_blocks.37": (64, 64, 3072),
    },
    "pixart_alpha": {
        "transformer_blocks.0": (64, 64, 1152),
        "transformer_blocks.27": (64, 64, 1152),
    },
    "qwen_image": {"transformer_blocks.59": (64, 64, 3072)},
    "z_image": {"noise_refiner.1": (64, 64, 3840), "layers.29": (64, 64, 3840)},
    "z_image_turbo": {"noise_refiner.1": (64, 64, 3840), "layers.29": (64, 64, 3840)},
    "lumina2": {"noise_refiner.1": (64, 64, 2304), "layers.25": (64, 64, 2304)},
    "hidream": {
        "double_stream_blocks.15": (64, 64, 2560),
        "single_stream_blocks.31": (64, 64, 2560),
    },
    "cogview4": {"transformer_blocks.27": (64, 64, 4096)},
    "pixart_sigma": {"transformer_blocks.27": (64, 64, 1152)},
    "sana": {"transformer_blocks.0": (32, 32, 2240), "transformer_blocks.19": (32, 32, 2240)},
    "sana_sprint": {"transformer_blocks.19": (32, 32, 2240)},
    "hunyuan_dit": {"blocks.0": (64, 64, 1408), "blocks.39": (64, 64, 1408)},
    "aura_flow": {
        "joint_transformer_blocks.3": (64, 64, 3072),
        "single_transformer_blocks.31": (64, 64, 3072),
    },
}
# The scheduler's timestep of a call, where it is no number of 1000.
TIMES = {"sana_sprint": 1.0}
# Pixels of a latent entry, where they are not 8.
WIDE = {"sana": 32, "sana_sprint": 32}


def test_every_configured_model_has_its_published_architecture_and_none_is_left_over():
    configured = {path.stem for path in MODELS}
    assert configured == set(PUBLISHED) == set(BLOCKS)
    assert set(known_architectures()) == configured | set(VIDEOS)


@pytest.mark.parametrize("name", PUBLISHED)
def test_hookpoints_widths_and_grids_are_the_published_ones(name: str) -> None:
    (blocks, _, pixels, _), expected = PUBLISHED[name], BLOCKS[name]
    described = describe("owner/name", architecture=name)
    finest = (pixels // described.scale,) * 2
    known = described.hookpoints
    assert len(known) == blocks
    assert {p: (*known[p].grid(*finest), known[p].d_in) for p in expected} == expected
    assert described.latent_scale == WIDE.get(name, 8)
    assert described.reads_text == (name not in ONE_SEQUENCE)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_denoiser_has_the_published_number_of_parameters_and_latent_channels(name: str) -> None:
    parts = OmegaConf.to_container(OmegaConf.load(ARCHITECTURES / f"{name}.json"))
    assert isinstance(parts, dict)
    denoiser = build_denoiser(parts["denoiser"])
    assert all(parameter.is_meta for parameter in denoiser.parameters())
    millions = sum(parameter.numel() for parameter in denoiser.parameters()) / 1e6
    assert millions == pytest.approx(PUBLISHED[name][3], rel=0.005)
    channels = adapter_for(denoiser).latent_channels
    vae = parts["vae"]
    assert channels == vae.get("latent_channels", vae.get("z_dim")) == PUBLISHED[name][1]


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
    if path.stem in UNPINNED:
        assert model.get("revision") is None and "none is pinned" in path.read_text()
    else:
        assert re.fullmatch(r"[0-9a-f]{40}", model.revision)


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    sorted(
        set(PUBLISHED)
        - SAME_SIZES
        # Their denoisers read numbers out of tensors, which the meta device does not have
        - {"qwen_image", "z_image", "z_image_turbo", "lumina2", "hidream", "cogview4"}
    ),
)
def test_the_true_sizes_run_and_give_the_announced_grids_on_the_meta_device(name: str) -> None:
    """In one denoiser call, every block's output has the announced positions and channels."""
    _, channels, pixels, _ = PUBLISHED[name]
    parts = OmegaConf.to_container(OmegaConf.load(ARCHITECTURES / f"{name}.json"))
    assert isinstance(parts, dict)
    denoiser = build_denoiser(parts["denoiser"])
    adapter, side = adapter_for(denoiser), pixels // WIDE.get(name, 8)
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
            axes = len(config.axes_dims_rope)
            given["img_ids"] = torch.zeros((side // 2) ** 2, axes)
            given["txt_ids"] = torch.zeros(words, axes)
            if "guidance_embeds" in config:
                given["guidance"] = torch.ones(1) if config.guidance_embeds else None
        if "text_len_t5" in config:
            given["text_embedding_mask"] = torch.ones(1, words)
            given["encoder_hidden_states_t5"] = torch.zeros(1, 256, config.cross_attention_dim_t5)
            given["text_embedding_mask_t5"] = torch.ones(1, 256)
            given["encoder_hidden_states"] = torch.zeros(1, 77, config.cross_attention_dim)
        if name == "sana_sprint":
            given["guidance"] = torch.ones(1)
        taken = inspect.signature(type(denoiser).forward).parameters
        given = {argument: value for argument, value in given.items() if argument in taken}
        predicted = adapter.predict(
            given, torch.zeros(1, channels, side, side), TIMES.get(name, 500.0)
        )
    assert predicted.shape == (1, channels, side, side)
    finest = (side // adapter.patch, side // adapter.patch)
    for path, info in list_hookpoints(denoiser).items():
        height, width = info.grid(*finest)
        unet = info.kind == "Transformer2DModel"
        joined = info.picture is not None and info.picture.within == "after_text"
        text = adapter.text_lengths(given, 1)[0] if joined else 0
        assert seen[path] == (
            (1, info.d_in, height, width) if unet else (1, text + height * width, info.d_in)
        )


@pytest.mark.parametrize("name", VIDEOS)
def test_the_blocks_of_video_models_are_the_published_ones(name: str) -> None:
    blocks, channels, (*grid, d_in), millions = VIDEOS[name]
    text = (config_directory() / "model" / f"{name}.yaml").read_text()
    model: Any = OmegaConf.create(text)
    described = describe(model.source, architecture=name)
    finest = (described.frames, model.height // described.scale, model.width // described.scale)
    assert len(described.hookpoints) == blocks and described.reads_text
    assert {info.grid(*finest) for info in described.hookpoints.values()} == {tuple(grid)}
    assert {info.d_in for info in described.hookpoints.values()} == {d_in}
    assert re.findall(r"# (\d+x\d+x\d+x\d+)", text) == ["x".join(map(str, (*grid, d_in)))] * 3
    assert set(model.hookpoints.values()) <= set(described.hookpoints)
    assert (model.guidance_layout, model.latent_scale) == (described.layout, described.latent_scale)
    assert re.fullmatch(r"[0-9a-f]{40}", model.revision)
    parts: Any = OmegaConf.to_container(OmegaConf.load(ARCHITECTURES / f"{name}.json"))
    denoiser = build_denoiser(parts["denoiser"])
    assert adapter_for(denoiser).latent_channels == channels
    assert list(list_hookpoints(denoiser)) == list(described.hookpoints)
    numbers = sum(parameter.numel() for parameter in denoiser.parameters()) / 1e6
    assert numbers == pytest.approx(millions, rel=0.005)


def test_an_unknown_architecture_lists_the_known() -> None:
    with pytest.raises(UserError, match=r"'sd13'; known: .*flux_dev, .*sd14"):
        describe("owner/name", architecture="sd13")


def test_a_folder_is_read_itself_whatever_architecture_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read .* set model.source to a local folder"):
        describe(tmp_path, architecture="sd14")
