"""The tables of a model's hookpoints and text layers."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from diffusae.backbone.describe import Description
from diffusae.backbone.hookpoints import find
from diffusae.backbone.settings import ModelSettings
from diffusae.backbone.sites import layer_of, sites_of, streams_of

WIDTH = 100


def _table(*names: str, title: str | None = None) -> Table:
    columns = (Column(name, no_wrap=True) for name in names)
    return Table(*columns, title=title, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)


def hookpoint_table(model: ModelSettings, description: Description) -> Table:
    """One row per block, in the order of the places that a configuration can name. Beside the name
    of a block stands what is read there, if it is not the update: `mid:mlp_in`, `mid.0:mlp_in` of
    the first transformer block in a 2D transformer."""
    known = description.hookpoints
    names: dict[str, list[str]] = {path: [] for path in known}
    for block, wanted in model.hookpoints.items():
        if wanted is not None:
            found = find(known, wanted)
            path = next(path for path in known if f"{found.path}.".startswith(f"{path}."))
            inside = found.name.removeprefix(path).replace(".transformer_blocks.", ".")
            names[path].append(f"{block}{inside}")
    title = f"{model.name} at {model.height} x {model.width} px"
    table = _table("place", "path", "class", "d_in", "grid", "block", title=title)
    finest = (model.height // description.scale, model.width // description.scale)
    for place, (path, info) in enumerate(known.items()):
        grid = "x".join(map(str, info.grid(*finest)))
        table.add_row(str(place), path, info.kind, str(info.d_in), grid, ", ".join(names[path]))
    return table


def site_table(description: Description) -> Table:
    """One row per class of blocks: the streams and sites that a hookpoint's name can add to a
    path."""
    table = _table("class", "@stream", ":site")
    infos = list(description.hookpoints.values())
    layers = [layer_of(info, 0) for info in infos if info.layers]
    rows = {(one.kind, streams_of(one), sites_of(one)) for one in [*infos, *layers]}
    for kind, streams, sites in sorted(rows):
        table.add_row(kind, " ".join(streams), " ".join(sites))
    if layers:
        table.caption = f"a {layers[0].kind} is PATH.transformer_blocks.N, N from 0"
    return table


def encoder_table(description: Description) -> Table:
    """One row per text encoder: its layers' names, d_in, and the tokens of a padded prompt."""
    table = _table("text encoder", "layers", "d_in", "tokens")
    encoders = dict.fromkeys(layer.encoder for layer in description.text_layers.values())
    for encoder in encoders:
        layers = [layer for layer in description.text_layers.values() if layer.encoder == encoder]
        names = f"{layers[0].name} ... {layers[-1].name}" if len(layers) > 1 else layers[0].name
        table.add_row(encoder, names, str(layers[0].d_in), str(layers[0].tokens))
    return table
