"""The layers of a pipeline's text encoders. `text_9` is layer 9 (from 0) of the first encoder,
`text2_9` and `text3_9` of the second and third.

A layer's output is one vector per token, [prompts, tokens, d_in], alone (CLIP) or first in a tuple
(T5). Not all reach the denoiser: Stable Diffusion XL reads the last layer but one, and FLUX reads
only a pooled vector of its first encoder.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffusae.backbone.families.table import padded_tokens
from diffusae.backbone.outline import text_outline
from diffusae.errors import UserError, together

if TYPE_CHECKING:
    from torch import nn

ENCODERS: Mapping[str, str] = {
    "text": "text_encoder",
    "text2": "text_encoder_2",
    "text3": "text_encoder_3",
}
"""{beginning of a layer's name: the pipeline's attribute of the encoder}"""

_NAME = re.compile(r"(text[23]?)_(\d+)")
_TEXT_LIMIT = "max_sequence_length"
# transformers 5 has `text_model` around the layers of CLIPTextModelWithProjection, but not of
# CLIPTextModel.
_LISTS = ("encoder.layers", "text_model.encoder.layers", "encoder.block")


@dataclass(frozen=True)
class TextLayer:
    """One layer: name, the pipeline's attribute of its encoder, path in the encoder, width of a
    token's vector, tokens of a padded prompt."""

    name: str
    encoder: str
    path: str
    d_in: int
    tokens: int

    @property
    def tokenizer(self) -> str:
        """The pipeline's attribute of the encoder's tokenizer."""
        return self.encoder.replace("text_encoder", "tokenizer")

    @property
    def hookpoint(self) -> str:
        """The dotted path of the layer under the pipeline: `text_encoder.encoder.layers.9`."""
        return f"{self.encoder}.{self.path}"


def names_text_layer(block: str) -> bool:
    """Whether a block's name has the form of a text layer's name."""
    return _NAME.fullmatch(block) is not None


def list_text_layers(pipe: Any, *, text_tokens: int | None = None) -> dict[str, TextLayer]:
    """{name: layer} of all text encoders of a loaded pipeline, in order.

    `text_tokens` is the length to which T5 prompts are padded or cut. None: the pipeline's own.
    """
    encoders = {encoder: getattr(pipe, encoder, None) for encoder in ENCODERS.values()}
    return layers_of(encoders, pipeline=type(pipe), text_tokens=text_tokens)


def describe_text_layers(
    configs: Mapping[str, Mapping[str, Any]], *, pipeline: str, text_tokens: int | None = None
) -> dict[str, TextLayer]:
    """The same before any weights are there: {encoder: configuration with its `_class_name`}, of a
    pipeline of this class. An unusual encoder is built on the meta device.
    """
    from diffusae.backbone.component_configs import check_sizes, on_meta

    padded = text_tokens or padded_tokens(pipeline) or 512
    layers: dict[str, TextLayer] = {}
    for short, encoder in ENCODERS.items():
        if (config := configs.get(encoder)) is None:
            continue
        check_sizes(config, encoder)
        if (known := text_outline(config)) is not None:
            tokens = known.tokens or padded
            for place in range(known.layers):
                name, path = f"{short}_{place}", f"{known.path}.{place}"
                layers[name] = TextLayer(name, encoder, path, known.width, tokens)
        else:
            values = {name: value for name, value in config.items() if name != "_class_name"}
            module = on_meta({**values, "architectures": [config["_class_name"]]}, encoder)
            layers |= layers_of({encoder: module}, pipeline=_class_of(pipeline), text_tokens=padded)
    return layers


def _class_of(pipeline: str) -> type:
    import diffusers

    return getattr(diffusers, pipeline)


def layers_of(
    encoders: Mapping[str, Any], *, pipeline: type, text_tokens: int | None = None
) -> dict[str, TextLayer]:
    """{name: layer} of {the pipeline's attribute: encoder}. Values that are no modules are
    skipped."""
    from torch import nn

    named: dict[str, TextLayer] = {}
    for short, encoder in ENCODERS.items():
        module = encoders.get(encoder)
        if not isinstance(module, nn.Module):
            continue
        path, layers = _layers(module, encoder)
        config: Any = module.config
        for place in range(len(layers)):
            name = f"{short}_{place}"
            named[name] = TextLayer(
                name=name,
                encoder=encoder,
                path=f"{path}.{place}",
                d_in=config.hidden_size,  # works for T5 too
                tokens=_tokens(config, pipeline, text_tokens),
            )
    return named


def find_text_layer(known: Mapping[str, TextLayer], name: str) -> TextLayer:
    """The layer of this name. A `UserError` for an unknown name lists the valid names."""
    if name not in known:
        raise UserError(
            f"text layer {name!r} does not exist; the model's text encoders have "
            f"{in_short(known) or 'none'}"
        )
    return known[name]


def find_text_layers(known: Mapping[str, TextLayer], names: Iterable[str]) -> dict[str, TextLayer]:
    """{name: layer}. One `UserError` lists all unknown names."""
    layers: dict[str, TextLayer] = {}
    faults = []
    for name in names:
        try:
            layers[name] = find_text_layer(known, name)
        except UserError as error:
            faults.append(str(error))
    together(faults)
    return layers


def text_layer(pipe: Any, name: str) -> nn.Module:
    """The module of a loaded pipeline's text layer. Raises as `find_text_layer`."""
    layer = find_text_layer(list_text_layers(pipe), name)
    return getattr(pipe, layer.encoder).get_submodule(layer.path)


def in_short(known: Iterable[str]) -> str:
    """Layers' names in short, by encoder: `text_0 to text_11, text2_0 to text2_31`."""
    ends: dict[str, list[str]] = {}
    for name in known:
        ends.setdefault(name.split("_")[0], []).append(name)
    return ", ".join(
        f"{names[0]} to {names[-1]}" if len(names) > 1 else names[0] for names in ends.values()
    )


def _tokens(config: Any, pipeline: type, text_tokens: int | None) -> int:
    """Tokens of a padded prompt. CLIP: its positions. T5: `text_tokens`, or the default of the
    pipeline's call."""
    if hasattr(config, "max_position_embeddings"):
        return config.max_position_embeddings
    known = inspect.signature(pipeline.__call__).parameters  # pyright: ignore[reportFunctionMemberAccess]
    return text_tokens or (known[_TEXT_LIMIT].default if _TEXT_LIMIT in known else 512)


def _layers(module: nn.Module, encoder: str) -> tuple[str, nn.ModuleList]:
    from torch import nn

    for path in _LISTS:
        try:
            layers = module.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(layers, nn.ModuleList):
            return path, layers
    raise UserError(
        f"the layers of {encoder}, a {type(module).__name__}, are not where CLIP and T5 keep them "
        f"({', '.join(_LISTS)}); use a pipeline with one of these"
    )
