"""Hookpoints: every block of the model that can be hooked, with its channels and its grid, and its
text encoders' layers, before any weights are loaded.
"""

from __future__ import annotations

from omegaconf import DictConfig
from rich.console import Console

from diffusae.backbone.hookpoint_tables import WIDTH, encoder_table, hookpoint_table, site_table
from diffusae.backbone.passes import configured_branches
from diffusae.backbone.settings import ModelSettings
from diffusae.errors import UserError
from diffusae.study.model import describe_model


def hookpoints(cfg: DictConfig) -> None:
    """Print the model's blocks: place, path, class, d_in, grid at the configured size, and the name
    the configuration gives it; then what else can be read of a block of each class; then its text
    encoders and the names of their layers (`collection=text`).

    Raises:
        UserError: the model's configuration cannot be had, or holds no block that could be hooked.
    """
    model = ModelSettings.of(cfg)
    description = describe_model(model, text_layers=True)
    if not description.hookpoints:
        raise UserError(f"{description.pipeline} holds no transformer block that could be hooked")
    console = Console()
    console.width = max(console.width, WIDTH)  # a path that is cut is of no use
    console.print(hookpoint_table(model, description))
    console.print(site_table(description))
    console.print(encoder_table(description))
    branches = configured_branches(
        model.guidance_layout or description.layout, model.guidance, model.true_guidance
    )
    console.print(
        f"{description.pipeline}; a latent entry is {description.latent_scale} px wide; guidance:"
        f" {description.layout}, branches at these settings: {', '.join(sorted(branches))};"
        f" {description.tokens} text tokens",
        soft_wrap=True,
    )
