"""Stable Diffusion 1, 2 and XL, latent consistency models, and other pipelines of a U-Net."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from diffusae.backbone.adapters import Adapter
from diffusae.backbone.blocks import HookpointInfo
from diffusae.backbone.outline import Outline
from diffusae.backbone.passes import PassesOf, perturbed

_PLAIN = {"DownBlock2D", "UpBlock2D", "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"}


class StableDiffusionAdapter(Adapter):
    """The hookpoints of a U-Net are its 2D transformers. Inputs and outputs are feature maps."""

    family = "Stable Diffusion 1, 2, XL"
    denoisers = ("UNet2DConditionModel",)
    pipelines = (
        "StableDiffusionPipeline",
        "StableDiffusionXLPipeline",
        "LatentConsistencyModelPipeline",
        "StableDiffusionPAGPipeline",
        "StableDiffusionXLPAGPipeline",
    )
    with_a_picture = (
        "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline",
        "StableDiffusionDepth2ImgPipeline", "StableDiffusionUpscalePipeline",
        "StableDiffusionAdapterPipeline", "StableDiffusionXLAdapterPipeline",
        "StableDiffusionControlNetPipeline", "StableDiffusionControlNetImg2ImgPipeline",
        "StableDiffusionControlNetInpaintPipeline", "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline", "StableDiffusionXLControlNetPipeline",
        "StableDiffusionXLControlNetImg2ImgPipeline", "StableDiffusionXLControlNetInpaintPipeline",
        "StableDiffusionXLControlNetUnionPipeline",
        "StableDiffusionXLControlNetUnionImg2ImgPipeline",
        "StableDiffusionXLControlNetUnionInpaintPipeline", "LatentConsistencyModelImg2ImgPipeline",
        "StableDiffusionPAGImg2ImgPipeline", "StableDiffusionPAGInpaintPipeline",
        "StableDiffusionControlNetPAGPipeline", "StableDiffusionControlNetPAGInpaintPipeline",
        "StableDiffusionXLPAGImg2ImgPipeline", "StableDiffusionXLPAGInpaintPipeline",
        "StableDiffusionXLControlNetPAGPipeline", "StableDiffusionXLControlNetPAGImg2ImgPipeline",
    )  # fmt: skip

    @classmethod
    def passes(cls, pipeline: str) -> PassesOf:
        return perturbed if "PAG" in pipeline else super().passes(pipeline)

    @classmethod
    def patch_of(cls, config: Mapping[str, Any]) -> int:
        return 1

    @classmethod
    def outline(cls, config: Mapping[str, Any]) -> Outline | None:
        """Of a U-Net of plain blocks: every down block but the last halves the grid, the middle has
        one transformer, and an up block has one layer more than the down block of its size.
        """
        match config:
            case {
                "block_out_channels": [*channels],
                "down_block_types": [*down],
                "up_block_types": [*up],
                "layers_per_block": int(layers),
                "cross_attention_dim": int() | [*_],
            } if (
                (depths := _depths(config, len(down)))
                and len(channels) == len(down) == len(up) > 0
                and {*map(str, down), *map(str, up)} <= _PLAIN
                and all(isinstance(count, int) and count > 0 for count in channels)
                and layers > 0
                and config.get("mid_block_type", "UNetMidBlock2DCrossAttn")
                == "UNetMidBlock2DCrossAttn"
                and not config.get("dual_cross_attention")
            ):
                sizes = list(zip(range(len(channels)), channels, depths, strict=True))
                level, width, depth = sizes[-1]
                infos = [
                    *_section("down_blocks", down, layers, sizes),
                    *_section("up_blocks", up, layers + 1, sizes[::-1]),
                    HookpointInfo("mid_block.attentions.0", width, level=level, layers=depth),
                ]
                hookpoints = {info.path: info for info in infos}
                return Outline(hookpoints, 1, cls.layout, reads_text=True, pads=cls.pads)
        return None

    def hookpoints(self) -> dict[str, HookpointInfo]:
        from diffusers.models.transformers.transformer_2d import Transformer2DModel

        infos: dict[str, HookpointInfo] = {}
        levels = _levels(self.denoiser)
        for path, module in self.denoiser.named_modules():
            section = next((name for name in levels if path.startswith(f"{name}.")), None)
            if isinstance(module, Transformer2DModel) and section is not None:
                width = module.in_channels
                assert width is not None  # None only over discrete codes
                infos[path] = HookpointInfo(
                    path, width, level=levels[section], layers=len(module.transformer_blocks)
                )
        return infos


def _depths(config: Mapping[str, Any], levels: int) -> list[int]:
    """Transformer blocks in the 2D transformers of every level; empty where they are not alike."""
    depths = config.get("transformer_layers_per_block", 1)
    depths = [depths] * levels if isinstance(depths, int) else depths
    if not isinstance(depths, (list, tuple)) or len(depths) != levels:
        return []
    mirrored = config.get("reverse_transformer_layers_per_block") is None
    whole = all(isinstance(depth, int) and depth > 0 for depth in depths)
    return list(depths) if whole and mirrored else []


def _section(
    name: str, kinds: list[str], layers: int, sizes: list[tuple[int, int, int]]
) -> Iterator[HookpointInfo]:
    """The transformers of a U-Net's half; `sizes` are (level, channels, transformer blocks)."""
    for place, (kind, (level, channels, depth)) in enumerate(zip(kinds, sizes, strict=True)):
        if kind.startswith("CrossAttn"):
            for layer in range(layers):
                path = f"{name}.{place}.attentions.{layer}"
                yield HookpointInfo(path, channels, level=level, layers=depth)


def _levels(denoiser: Any) -> dict[str, int]:
    """{section: halvings} of a U-Net, e.g. {"down_blocks.0": 0, "mid_block": 3}."""
    levels: dict[str, int] = {}
    level = 0
    for i, block in enumerate(getattr(denoiser, "down_blocks", ())):
        levels[f"down_blocks.{i}"] = level
        level += getattr(block, "downsamplers", None) is not None
    levels["mid_block"] = level
    for i, block in enumerate(getattr(denoiser, "up_blocks", ())):
        levels[f"up_blocks.{i}"] = level
        level -= getattr(block, "upsamplers", None) is not None
    return levels
