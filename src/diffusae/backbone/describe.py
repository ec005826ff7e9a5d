"""What a pipeline's denoiser looks like, read off its configuration alone: no weights are loaded.

The configuration comes from the pipeline's folder, from the hub, or, for the models that conf/model names, from
`architectures/`: the published sizes, so that a study can be planned before any weights are at hand.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from diffusae.backbone.adapters import Layout, adapter_for
from diffusae.backbone.families import require_adapter, require_text_to_image
from diffusae.backbone.hookpoints import COMPONENTS, HookpointInfo, list_hookpoints
from diffusae.backbone.load import is_hub_id
from diffusae.backbone.text_attention import reads_text
from diffusae.backbone.text_layers import ENCODERS, TextLayer, describe_text_layers
from diffusae.errors import UserError, unknown

ARCHITECTURES = Path(__file__).parent / "architectures"


@dataclass(frozen=True)
class Description:
    """A model before its weights.

    Attributes:
        pipeline: the class of its pipeline.
        hookpoints: {path: what is known of the block}.
        scale: pixels that a position of the finest grid stands for, along each side.
        latent_scale: pixels that a latent entry stands for, along each side.
        tokens: of a padded prompt, as the denoiser attends to them first.
        layout: how guidance runs.
        reads_text: whether its attention to the text can be recorded.
        text_layers: {name: layer of a text encoder}, where it was asked for.
    """

    pipeline: str
    hookpoints: dict[str, HookpointInfo]
    scale: int
    latent_scale: int
    tokens: int
    layout: Layout
    reads_text: bool
    text_layers: dict[str, TextLayer] = field(default_factory=dict)


def known_architectures() -> list[str]:
    """The models whose published sizes ship with the package."""
    return sorted(path.stem for path in ARCHITECTURES.glob("*.json"))


def describe(
    source: str | Path,
    *,
    revision: str | None = None,
    architecture: str | None = None,
    text_tokens: int | None = None,
    text_layers: bool = False,
) -> Description:
    """Build the denoiser of a folder or hub id on the meta device and list its hookpoints.

    For a hub id, `architecture` names the shipped sizes that are read in its place; then nothing is downloaded. With
    `text_layers`, those of its text encoders are listed too.

    Raises:
        UserError: the configuration cannot be had (the message names what would serve), or no such architecture.
    """
    shipped = architecture is not None and is_hub_id(source)
    if shipped:
        if architecture not in known_architectures():
            raise unknown("architecture", architecture, known_architectures())
        parts = json.loads((ARCHITECTURES / f"{architecture}.json").read_text(encoding="utf-8"))
    else:
        parts = _published(source, revision)
    denoiser = build_denoiser(parts["denoiser"])
    adapter = adapter_for(denoiser)
    latent_scale = 2 ** (len(parts["vae"]["block_out_channels"]) - 1)
    pipeline = getattr(diffusers, parts["pipeline"], DiffusionPipeline)
    return Description(
        pipeline=parts["pipeline"],
        hookpoints=list_hookpoints(denoiser),
        scale=latent_scale * adapter.patch,
        latent_scale=latent_scale,
        tokens=adapter.tokens(pipeline, parts["text_tokens"], text_tokens),
        layout=adapter.layout,
        reads_text=reads_text(denoiser),
        text_layers=describe_text_layers(
            parts["text_encoders"] if shipped else _text_encoders(source, revision),
            pipeline=pipeline,
            text_tokens=text_tokens,
        )
        if text_layers
        else {},
    )


def build_denoiser(config: dict[str, Any]) -> Any:
    """The denoiser of a configuration with its `_class_name`, on the meta device: shapes without memory."""
    kind = getattr(diffusers, config["_class_name"])
    with torch.device("meta"):
        return kind.from_config(config)


def _text_encoders(source: str | Path, revision: str | None) -> dict[str, dict[str, Any]]:
    """{encoder: its configuration} of a folder or hub id."""
    try:
        index: Any = DiffusionPipeline.load_config(source, revision=revision)
        return {
            name: {
                **_AnyConfig.load_config(source, subfolder=name, revision=revision),  # pyright: ignore[reportGeneralTypeIssues]
                "_class_name": index[name][1],
            }
            for name in ENCODERS.values()
            if index.get(name, [None])[0] is not None
        }
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"the text encoders' configurations of {str(source)!r} cannot be read ({reason}); set model.source to a local "
            "folder in the diffusers layout, with text_encoder/config.json and those of further encoders"
        ) from error


def _published(source: str | Path, revision: str | None) -> dict[str, Any]:
    """The configurations of a folder or hub id."""
    try:
        index: Any = DiffusionPipeline.load_config(source, revision=revision)
        component = next((name for name in COMPONENTS if name in index), None)
        if component is None:
            raise UserError(
                f"{index['_class_name']} has no U-Net and no transformer whose blocks could be hooked"
            )
        require_adapter(index)
        require_text_to_image(index["_class_name"])
        text: Any = _AnyConfig.load_config(source, subfolder="text_encoder", revision=revision)
        return {
            "pipeline": index["_class_name"],
            "denoiser": _AnyConfig.load_config(source, subfolder=component, revision=revision),
            "vae": _AnyConfig.load_config(source, subfolder="vae", revision=revision),
            "text_tokens": text.get("max_position_embeddings", 0),
        }
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"the configuration of {str(source)!r} cannot be read ({reason}); set model.source to a local folder in "
            "the diffusers layout (with model_index.json, vae/config.json, text_encoder/config.json, and unet/config.json "
            f"or transformer/config.json), or model.architecture to one of {', '.join(known_architectures())}"
        ) from error


class _AnyConfig(ConfigMixin):
    """Reads any component's config.json as a plain dict."""

    config_name = "config.json"
