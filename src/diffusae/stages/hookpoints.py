"""Hookpoints: every block of the model that can be hooked, with its channels and its grid, and its text encoders' layers, before
any weights are loaded."""

from __future__ import annotations

from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from diffusae.backbone.branches import configured_branches
from diffusae.backbone.describe import Description
from diffusae.backbone.hookpoints import find
from diffusae.errors import UserError
from diffusae.study.model import describe_model

_WIDTH = 100


def hookpoints(cfg: DictConfig) -> None:
    """Print the model's blocks: place, path, class, d_in, grid at the configured size, and the name the configuration gives
    it; then its text encoders and the names of their layers (`collection=text`).

    Raises:
        UserError: the model's configuration cannot be had, or holds no block that could be hooked.
    """
    description = describe_model(cfg.model, text_layers=True)
    if not description.hookpoints:
        raise UserError(f"{description.pipeline} holds no transformer block that could be hooked")
    console = Console()
    console.width = max(console.width, _WIDTH)  # a path that is cut is of no use
    console.print(table(cfg.model, description))
    console.print(encoder_table(description))
    branches = configured_branches(
        cfg.model.guidance_layout or description.layout, cfg.model.guidance, cfg.model.true_guidance
    )
    console.print(
        f"{description.pipeline}; a latent entry is {description.latent_scale} px wide; guidance: {description.layout}, "
        f"branches at these settings: {', '.join(sorted(branches))}; {description.tokens} text tokens",
        soft_wrap=True,
    )


def table(model: DictConfig, description: Description) -> Table:
    """One row a block, in the order of the places that a configuration can name."""
    known = description.hookpoints
    names: dict[str, list[str]] = {path: [] for path in known}
    for block, wanted in model.hookpoints.items():
        if wanted is not None:
            names[find(known, wanted).path].append(str(block))
    made = Table(
        *(Column(name, no_wrap=True) for name in ("place", "path", "class", "d_in", "grid", "block")),
        title=f"{model.name} at {model.height} x {model.width} px",
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    finest = (model.height // description.scale, model.width // description.scale)
    for place, (path, info) in enumerate(known.items()):
        grid = "x".join(map(str, info.grid(*finest)))
        made.add_row(str(place), path, info.kind, str(info.d_in), grid, ", ".join(names[path]))
    return made


def encoder_table(description: Description) -> Table:
    """One row a text encoder: its layers' names, d_in, and the tokens of a padded prompt."""
    made = Table(
        *(Column(name, no_wrap=True) for name in ("text encoder", "layers", "d_in", "tokens")),
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    encoders = dict.fromkeys(layer.encoder for layer in description.text_layers.values())
    for encoder in encoders:
        layers = [layer for layer in description.text_layers.values() if layer.encoder == encoder]
        names = f"{layers[0].name} ... {layers[-1].name}" if len(layers) > 1 else layers[0].name
        made.add_row(encoder, names, str(layers[0].d_in), str(layers[0].tokens))
    return made
