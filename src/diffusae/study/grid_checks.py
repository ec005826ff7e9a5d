"""What a configuration's cells must be, by kind of collection: blocks, moments, conditionings."""

from __future__ import annotations

from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from diffusae.activations.settings import ActivationSettings
from diffusae.backbone.passes import CONDITIONINGS
from diffusae.backbone.schedule import step_index
from diffusae.backbone.settings import Layout, ModelSettings
from diffusae.backbone.sites import completed, parsed
from diffusae.backbone.text_layers import names_text_layer
from diffusae.errors import UserError, unknown
from diffusae.settings import is_number
from diffusae.study.given_pictures import branch_of_prompt
from diffusae.study.settings import (
    BlockSettings,
    BranchSettings,
    CollectionSettings,
    GridSettings,
    MomentSettings,
)

TEXT_T, TEXT_BRANCH = 1.0, "cond"
"""The moment and the conditioning of every cell of a text encoder: it runs once, before the first
step, and reads the prompt.
"""


def grid_faults(cfg: DictConfig, *, steps: int | None) -> Iterator[str]:
    """Every fault of blocks and moments.

    Args:
        steps: of a generation; None: their number is wrong itself.
    """
    grid, model = GridSettings.of(cfg), ModelSettings.unchecked(cfg)
    kind = CollectionSettings.unchecked(cfg).kind
    blocks = list(dict.fromkeys([BlockSettings.unchecked(cfg).name, *grid.blocks]))
    if kind == "text":
        yield from _text_faults(blocks, [MomentSettings.unchecked(cfg).t, *grid.timesteps])
        return
    for block in blocks:
        if names_text_layer(block):
            yield (
                f"block {block} is a text encoder's layer, which collection={kind} does not read;"
                " set collection=text, or choose a block of the denoiser"
            )
        elif block not in model.hookpoints:
            yield str(unknown(f"block of model {model.name}:", block, model.hookpoints))
        elif (name := model.hookpoints[block]) is None:
            yield (
                f"block {block} of model {model.name} has no hookpoint; give"
                f" model.hookpoints.{block} a path or a place that `diffusae hookpoints` lists, or"
                " leave the block out of block and grid.blocks"
            )
        else:
            yield from _hookpoint_faults(cfg, block, name)
    taken: dict[int, float] = {}
    for t in grid.timesteps:
        if not is_number(t) or not 0 <= t <= 1:
            yield (
                f"grid.timesteps: t={t} lies outside [0, 1] (1 = first reverse step); choose one"
                " between"
            )
        elif steps is not None and (twin := taken.setdefault(step_index(t, steps), t)) != t:
            yield (
                f"grid.timesteps: t={twin} and t={t} fall on one of {steps} steps; drop one of them"
            )


def _hookpoint_faults(cfg: DictConfig, block: str, name: str | int) -> Iterator[str]:
    """What is wrong with the name of a block's hookpoint, or cannot be had of the text's tokens."""
    try:
        _, _, stream = parsed(completed(name, stream=cfg.stream))
    except UserError as error:
        yield f"block {block}: {error}"
        return
    if stream != "text":
        return
    activations, kind = ActivationSettings.unchecked(cfg), CollectionSettings.unchecked(cfg).kind
    text = f"block {block} reads the text's tokens ({name}, stream={cfg.stream})"
    if kind != "generation":
        yield (
            f"{text}, and collection={kind} has one prompt for all pictures; set"
            " collection=generation, or stream=picture"
        )
    if not activations.store_training or activations.held_out != "updates":
        yield (
            f"{text}, of which captions have different numbers, so they are stored; set"
            " activations.store_training=true activations.held_out=updates"
        )


def conditioning_faults(cfg: DictConfig, *, guided: bool, layout: Layout | None) -> Iterator[str]:
    """Every fault of the conditionings.

    Args:
        guided: whether a generation has an unconditional branch.
        layout: how guidance runs; None: it is not known yet.
    """
    kind, grid = CollectionSettings.unchecked(cfg).kind, GridSettings.of(cfg)
    only = {
        "text": TEXT_BRANCH,
        "pictures": branch_of_prompt(OmegaConf.select(cfg, "collection.prompt")),
    }.get(kind)
    own = BranchSettings.unchecked(cfg).branch
    for branch in dict.fromkeys([own, *grid.conditionings]):
        if branch not in CONDITIONINGS:
            yield str(unknown("conditioning", branch, CONDITIONINGS))
        elif only is not None and branch != only:
            yield (
                f"conditioning {branch}: collection={kind} has {only} alone ({_ONLY[kind]}); set "
                f"conditioning.branch={only} and grid.conditionings=[{only}]"
            )
        elif kind == "generation" and branch == "uncond" and not guided:
            yield _why_no_uncond(ModelSettings.unchecked(cfg), layout)


_ONLY = {
    "text": "a text encoder reads the prompt",
    "pictures": "an empty collection.prompt is uncond, any other cond",
}


def _text_faults(blocks: list[str], moments: list[float]) -> Iterator[str]:
    for block in blocks:
        if not names_text_layer(block):
            yield (
                f"block {block} is no text encoder's layer; collection=text takes text_0, text_1,"
                " ... of the first encoder, text2_0, ... of the second, text3_0, ... of the third:"
                " set block.name and grid.blocks"
            )
    for t in dict.fromkeys(moments):
        if t != TEXT_T:
            yield (
                f"t={t}: a text encoder runs once, before the first step, and its cells stand at"
                " t=1.0; set timestep.t=1.0 and grid.timesteps=[1.0]"
            )


def _why_no_uncond(model: ModelSettings, layout: Layout | None) -> str:
    otherwise = "choose conditioning=cond and grid.conditionings=[cond]"
    if layout == "two_passes":
        return (
            f"conditioning uncond needs classifier-free guidance, and {model.name} runs without:"
            f" model.guidance={model.guidance} is at most an input of the model, so each step is"
            " one pass, with the prompt. Set model.true_guidance above 1 for a second pass a step"
            f" with the empty prompt (twice the time), or {otherwise}"
        )
    if layout == "none":
        return (
            f"conditioning uncond needs classifier-free guidance, which {model.name} does not have;"
            f" {otherwise}"
        )
    return (
        f"conditioning uncond needs classifier-free guidance, and model.guidance={model.guidance} "
        f"has none; raise it above {0 if layout == 'cond_first' else 1}, or "
        f"{otherwise}"
    )
