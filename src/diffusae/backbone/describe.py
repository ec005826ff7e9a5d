"""A description of a pipeline's denoiser from its configuration, without weights. A denoiser of a
usual kind is not even built (`outline`).

The configuration comes from the pipeline's folder or the hub. For the models of conf/model it comes
from `architectures/` (the published sizes), so that a study can be planned without any download.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusae.backbone.adapters import Adapter
from diffusae.backbone.blocks import HookpointInfo
from diffusae.backbone.component_configs import REMEDY, check_sizes, component_config, on_meta
from diffusae.backbone.families.table import (
    adapter_class,
    adapter_for,
    frames_of,
    layout_of,
    outline_of,
    padded_tokens,
    require_adapter,
    require_text_to_image,
)
from diffusae.backbone.hookpoints import COMPONENTS
from diffusae.backbone.outline import Outline
from diffusae.backbone.settings import Layout
from diffusae.backbone.text_layers import ENCODERS, TextLayer, describe_text_layers
from diffusae.backbone.trusted import require_trusted
from diffusae.errors import UserError, unknown
from diffusae.parsing import of_type, read_json, shown
from diffusae.sources import is_hub_id

ARCHITECTURES = Path(__file__).parent / "architectures"
_MOST_STAGES = 12


@dataclass(frozen=True)
class Description:
    """A model without its weights.

    Attributes:
        pipeline: the class of its pipeline.
        hookpoints: {path: info of the block}.
        scale: pixels per position of the finest grid, along a side.
        latent_scale: pixels per latent entry, along a side.
        tokens: tokens of a padded prompt that the denoiser attends to first.
        layout: how guidance runs.
        reads_text: whether its attention to the text can be recorded.
        frames: positions in time of a video of the pipeline's default length; 0: pictures.
        most_text: the most tokens of the text in a block that holds some.
        text_layers: {name: layer of a text encoder}, if requested.
    """

    pipeline: str
    hookpoints: dict[str, HookpointInfo]
    scale: int
    latent_scale: int
    tokens: int
    layout: Layout
    reads_text: bool
    most_text: int
    frames: int = 0
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
    """List the hookpoints of the denoiser of a folder or hub id, by its configuration.

    For a hub id with an `architecture`, shipped sizes are used and nothing is downloaded. With
    `text_layers`, the text encoders' layers are listed too.

    Raises:
        UserError: the configuration cannot be read (the message says what would serve), or the
            architecture is unknown.
    """
    shipped = architecture is not None and is_hub_id(source)
    if shipped:
        if architecture not in known_architectures():
            raise unknown("architecture", architecture, known_architectures())
        parts = json.loads((ARCHITECTURES / f"{architecture}.json").read_text(encoding="utf-8"))
    else:
        parts = _published(source, revision)
    name = of_type(parts["pipeline"], str, "_class_name of the pipeline")
    check_sizes(parts["denoiser"], source)
    known = outline_of(parts["denoiser"]) or _built(parts["denoiser"], source)
    family = adapter_class(str(parts["denoiser"].get("_class_name"))) or Adapter
    own_tokens = of_type(parts["text_tokens"], int, "max_position_embeddings")
    padded = (text_tokens or padded_tokens(name)) if known.pads else None
    latent_scale = _latent_scale(parts["vae"], source)
    layers: dict[str, TextLayer] = {}
    if text_layers:
        encoders = parts["text_encoders"] if shipped else _text_encoders(source, revision)
        layers = describe_text_layers(encoders, pipeline=name, text_tokens=text_tokens)
    return Description(
        pipeline=name,
        hookpoints=known.hookpoints,
        scale=latent_scale * known.patch,
        latent_scale=latent_scale,
        tokens=padded or own_tokens,
        layout=layout_of(name, parts),
        reads_text=known.reads_text,
        frames=frames_of(name),
        most_text=family.most_text(name, own_tokens, text_tokens),
        text_layers=layers,
    )


def layout_in(source: str | Path) -> Layout | None:
    """How guidance runs in the pipeline of a folder; None: it is no folder of a pipeline."""
    index = Path(source).expanduser() / "model_index.json"
    if not index.is_file():
        return None
    config = read_json(index, remedy=REMEDY)
    name = of_type(config.get("_class_name"), str, "_class_name of the pipeline")
    return layout_of(name, config)


def configurations(
    source: str | Path, *, revision: str | None = None, architecture: str | None = None
) -> dict[str, Any]:
    """The configurations of a model's components: `denoiser`, `vae`, and `text_encoders` by name.
    Taken from where `describe` takes them, with the same errors."""
    if architecture in known_architectures() and is_hub_id(source):
        return read_json(ARCHITECTURES / f"{architecture}.json", remedy=REMEDY)
    return _published(source, revision) | {"text_encoders": _text_encoders(source, revision)}


def _built(config: dict[str, Any], source: object) -> Outline:
    """What building the denoiser of an unusual configuration shows."""
    from diffusae.backbone.text_attention import reads_text

    denoiser = build_denoiser(config, named_by=source)
    adapter = adapter_for(denoiser)
    return Outline(
        adapter.hookpoints(),
        adapter.patch,
        adapter.layout,
        reads_text=reads_text(denoiser),
        pads=adapter.pads,
    )


def build_denoiser(
    config: dict[str, Any], *, named_by: object = "the denoiser's configuration"
) -> Any:
    """The denoiser of a configuration with its `_class_name`, on the meta device. Raises as
    `on_meta`."""
    return on_meta(config, named_by)


def _latent_scale(vae: dict[str, Any], source: object) -> int:
    """Pixels of a latent entry along a side."""
    match vae:
        case {"_class_name": "AutoencoderKLWan", "scale_factor_spatial": int(scale)} if scale > 0:
            return scale
        case {"_class_name": "AutoencoderKLWan"}:
            return 8
        case {
            "_class_name": "AutoencoderKLLTXVideo",
            "patch_size": int(patch),
            "spatio_temporal_scaling": [*halved],
        } if patch > 0:
            return patch * 2 ** sum(map(bool, halved))
        case {"_class_name": "AutoencoderKLQwenImage", "temperal_downsample": [*halved]} if (
            len(halved) < _MOST_STAGES
        ):
            return 2 ** len(halved)
    return 2 ** (_stages(vae, source) - 1)


def _stages(vae: dict[str, Any], source: object) -> int:
    """The number of sizes of a VAE. Every further size halves the picture."""
    deep = vae.get("_class_name") == "AutoencoderDC"
    channels = vae.get("encoder_block_out_channels" if deep else "block_out_channels")
    if not isinstance(channels, list) or not 0 < len(channels) <= _MOST_STAGES:
        raise UserError(
            f"the VAE of {str(source)!r} ({shown(vae.get('_class_name'))}) must have "
            f"block_out_channels, a list of 1 to {_MOST_STAGES} numbers, has {shown(channels)}: "
            "how far it shrinks a picture is not known; choose another model"
        )
    return len(channels)


def _text_encoders(source: str | Path, revision: str | None) -> dict[str, dict[str, Any]]:
    """{encoder: its configuration} of a folder or hub id."""
    needed = "text_encoder/config.json and those of further encoders"
    with _named(source, "the text encoders' configurations", needed):
        index = _config_of(source, revision)
        return {
            name: {**_config_of(source, revision, name), "_class_name": _class_of(index, name)}
            for name in ENCODERS.values()
            if _class_of(index, name) is not None
        }


def _class_of(index: dict[str, Any], name: str) -> str | None:
    """The class of a component in model_index.json (`[library, class]`); None if it has none."""
    entry = of_type(index.get(name, [None, None]), list, name)
    kind = entry[1] if len(entry) == 2 else 0
    return of_type(kind, str | None, f"{name}, which is [library, class],")


def _published(source: str | Path, revision: str | None) -> dict[str, Any]:
    """The configurations of a folder or hub id."""
    needed = (
        "model_index.json, vae/config.json, text_encoder/config.json, and unet/config.json or"
        " transformer/config.json"
    )
    with _named(source, "the configuration", needed):
        index = _config_of(source, revision)
        if Path(source).expanduser().is_dir():
            require_trusted(Path(source).expanduser(), index)
        component = next((name for name in COMPONENTS if name in index), None)
        if component is None:
            raise UserError(
                f"{shown(index.get('_class_name'))} has no U-Net and no transformer with blocks to "
                "hook"
            )
        require_adapter(index)
        name = of_type(index.get("_class_name"), str, "_class_name of the pipeline")
        if not frames_of(name):
            require_text_to_image(name)
        encoder = _config_of(source, revision, "text_encoder")
        return {
            "pipeline": index.get("_class_name"),
            "is_distilled": index.get("is_distilled"),
            "denoiser": _config_of(source, revision, component),
            "vae": _config_of(source, revision, "vae"),
            "text_tokens": encoder.get("max_position_embeddings", 0),
        }


def _config_of(
    source: str | Path, revision: str | None, component: str | None = None
) -> dict[str, Any]:
    """model_index.json or a component's config.json, of a folder or of the hub."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        if component is not None:
            return component_config(folder, component)
        return read_json(folder / "model_index.json", remedy=REMEDY)
    from diffusers.configuration_utils import ConfigMixin
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    class AnyConfig(ConfigMixin):
        """Reads any component's config.json as a plain dict."""

        config_name = "config.json"

    kind: Any = DiffusionPipeline if component is None else AnyConfig
    config = kind.load_config(source, subfolder=component, revision=revision)
    return of_type(config, dict, str(source))


@contextmanager
def _named(source: str | Path, what: str, needed: str) -> Iterator[None]:
    """If a configuration cannot be read, raise a `UserError` that says what would serve."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the hub's clients have no common error class
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{what} of {str(source)!r} cannot be read ({reason}); set model.source to a local "
            f"folder in the diffusers layout (with {needed}), or model.architecture to one of "
            f"{', '.join(known_architectures())}"
        ) from error
