"""What a study's collection consists of: groups, streams, kept positions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from diffusae.activations.manifest import Manifest
from diffusae.activations.schema import ATTENTION, BESIDE_UPDATES, CONCEPTS, Stream
from diffusae.activations.settings import ActivationSettings, HeldOut
from diffusae.activations.subsampling import Subsampling, most_positions
from diffusae.backbone.describe import Description
from diffusae.backbone.hookpoints import find
from diffusae.backbone.schedule import step_index
from diffusae.backbone.settings import ModelSettings
from diffusae.backbone.text_layers import find_text_layers
from diffusae.files import sha256_of
from diffusae.prompts.prompt_set import Prompt
from diffusae.sae.settings import SaeSettings
from diffusae.sources import fingerprint
from diffusae.study.settings import GenerationCollection, GridSettings, PictureCollection
from diffusae.study.study import Study
from diffusae.study.targets import target_of, with_targets

SEEN_SPLITS = ("dictionary", "tune", "test")
"""The splits whose pictures are needed later; pictures of the others are never decoded."""

TRAINING_SPLIT = "train"
"""The only split whose positions may be thinned: validation, labels and composition need whole
grids.
"""


def stored_in(stream: Stream, split: str, held_out: HeldOut = "updates") -> bool:
    """Whether a stream is recorded in a split. Attention is a baseline of evaluations: nothing
    trains on it. Beside codes, it is kept of the splits alone that are evaluated.
    """
    if stream.block not in BESIDE_UPDATES:
        return True
    return split in SEEN_SPLITS and not (held_out == "codes" and split == "dictionary")


def groups_of(prompts: Sequence[Prompt], size: int) -> Iterator[list[Prompt]]:
    """Pictures of one split in groups of at most `size`, in the prompts' order."""
    for _, same in groupby(prompts, key=lambda prompt: prompt.split):
        rest = list(same)
        for start in range(0, len(rest), size):
            yield rest[start : start + size]


def is_stored(split: str, settings: ActivationSettings, *, coded: bool) -> bool:
    """Whether the collection has a split: that of codes (`coded`), or the other one."""
    if split in SEEN_SPLITS:
        return coded == (settings.held_out == "codes")
    return not coded and (settings.store_training or split != TRAINING_SPLIT)


def stored_groups(study: Study) -> Iterator[list[Prompt]]:
    """The groups of the study's pictures or texts that its collection stores, in order."""
    settings = ActivationSettings.of(study.cfg)
    for group in groups_of(study.prompts, settings.group_size):
        if is_stored(group[0].split, settings, coded=study.coded):
            yield group


def training_groups(study: Study) -> list[list[Prompt]]:
    """The groups of the split `train`, as a collection stores them, or would."""
    size = ActivationSettings.of(study.cfg).group_size
    return [group for group in groups_of(study.prompts, size) if group[0].split == TRAINING_SPLIT]


def finest_grid(study: Study, description: Description) -> tuple[int, int]:
    """(height, width) of the denoiser's finest grid: a U-Net's latents, a transformer's picture
    tokens.
    """
    model = ModelSettings.of(study.cfg)
    return model.height // description.scale, model.width // description.scale


def recorded_blocks(study: Study) -> list[str]:
    """The blocks of the grid, and the targets of their transcoders."""
    blocks, hookpoints = GridSettings.of(study.cfg).blocks, ModelSettings.of(study.cfg).hookpoints
    return with_targets(blocks, SaeSettings.of(study.cfg).target, hookpoints)


def target_block(study: Study) -> str | None:
    """The block whose stream the transcoder of the study's cell has as its target; None: it is an
    autoencoder of its own stream.
    """
    target = SaeSettings.of(study.cfg).target
    if target is None:
        return None
    return target_of(target, study.cell.block, ModelSettings.of(study.cfg).hookpoints)


def hookpoints_of(study: Study) -> dict[str, str | int]:
    """Recorded block -> the name of its hookpoint, or its place in the list of blocks."""
    known = study.hookpoints
    return {block: known[block] for block in recorded_blocks(study) if block in known}


def streams_of(
    study: Study, description: Description, timestep: Callable[[float], float], tokens: int
) -> list[Stream]:
    """The streams of all cells of the grid, and a stream of attention at every t where the model
    attends to a text, and one of ConceptAttention where there are concepts.

    Attention to given pictures' prompt is not collected. Text encoders have one stream a layer.

    Args:
        timestep: the scheduler's own value at a time t.
        tokens: of attention.
    """
    if study.kind == "text":
        return _text_streams(study, description)
    pooled = study.kind == "pictures" and PictureCollection.of(study.cfg).pooled
    model, grid = ModelSettings.of(study.cfg), GridSettings.of(study.cfg)
    beside = _beside_updates(study, description, tokens)
    hookpoints, finest = hookpoints_of(study), finest_grid(study, description)
    streams = []
    for t in grid.timesteps:
        when: dict[str, Any] = {
            "t": t,
            "step_index": step_index(t, model.steps),
            "timestep": timestep(t),
        }
        for block in recorded_blocks(study):
            info = find(description.hookpoints, hookpoints[block])
            text = info.stream == "text"
            height, width = (1, description.most_text) if text else info.grid(*finest)
            streams += [
                Stream(
                    block=block,
                    conditioning=branch,
                    hookpoint=info.name,
                    grid=(1, 1) if pooled else (height, width),
                    d_in=info.d_in,
                    **when,
                )
                for branch in grid.conditionings
            ]
        streams += [
            Stream(
                block=block, conditioning="cond", hookpoint=layer, grid=finest, d_in=d_in, **when
            )
            for block, (layer, d_in) in beside.items()
        ]
    return streams


def _beside_updates(
    study: Study, description: Description, tokens: int
) -> dict[str, tuple[str, int]]:
    """What is recorded beside the updates of generated pictures: block -> layer and channels."""
    if study.kind != "generation":
        return {}
    concepts = GenerationCollection.of(study.cfg).concepts
    return {
        **({ATTENTION: ("attn2", tokens)} if description.reads_text else {}),
        **({CONCEPTS: ("attn", len(concepts))} if concepts else {}),
    }


def _text_streams(study: Study, description: Description) -> list[Stream]:
    """One stream a layer, with as many positions as a padded prompt has tokens; samples hold the
    tokens of the prompt alone. There is no timestep of the scheduler: it is 0.
    """
    grid = GridSettings.of(study.cfg)
    layers = find_text_layers(description.text_layers, recorded_blocks(study))
    (t,), (branch,) = grid.timesteps, grid.conditionings
    return [
        Stream(
            block=name,
            t=t,
            conditioning=branch,
            hookpoint=layer.hookpoint,
            step_index=0,
            timestep=0,
            grid=(1, layer.tokens),
            d_in=layer.d_in,
        )
        for name, layer in layers.items()
    ]


def source_determines(study: Study) -> dict[str, Any]:
    """The settings of the model that decide a collection, with the contents of its folder in the
    place of the path.
    """
    model = study.model_determines()
    model.pop("batch_size")
    source = fingerprint(model["source"])
    if source is not None:
        model["source"] = f"files {source}"
    for name in ("gguf", "lora"):
        if name in model and (file := Path(model[name]).expanduser()).is_file():
            model[name] = f"file {sha256_of(file)[:16]}"
    return model


def subsampling_of(study: Study) -> Subsampling | None:
    """Which positions of training pictures are stored; None: all."""
    settings = ActivationSettings.of(study.cfg)
    most = most_positions(
        positions_per_image=settings.positions_per_image,
        max_vectors=settings.max_vectors,
        images=sum(prompt.split == TRAINING_SPLIT for prompt in study.prompts),
    )
    return thinned(most, seed=study.seed)


def thinned(positions: int | None, *, seed: int) -> Subsampling | None:
    """So many positions of every training picture; None: all."""
    if positions is None:
        return None
    return Subsampling(splits=(TRAINING_SPLIT,), positions_per_image=positions, seed=seed)


def words_of(text: str) -> list[str]:
    """The words of a caption whose tokens a sample names."""
    return sorted(set(re.findall(r"\w+", text)))


def stream_of(study: Study, manifest: Manifest) -> Stream:
    """The recorded stream of the study's cell."""
    return manifest.stream(study.cell.block, study.cell.t, study.cell.conditioning)


def target_stream_of(study: Study, manifest: Manifest) -> Stream | None:
    """The recorded stream that the transcoder of the study's cell has as its target; None: it is an
    autoencoder of its own stream.
    """
    block = target_block(study)
    if block is None:
        return None
    return manifest.stream(block, study.cell.t, study.cell.conditioning)
