"""Collect: one generation pass that records every cell of the grid, and the pictures."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from diffusae.activations.manifest import MANIFEST, Manifest
from diffusae.activations.parts import Part
from diffusae.activations.reader import discard_damaged, verify
from diffusae.activations.schema import ImageRecord, Stream
from diffusae.activations.writer import ActivationWriter
from diffusae.backbone.adapters import adapter_of
from diffusae.backbone.describe import Description
from diffusae.backbone.hookpoints import find
from diffusae.capture.attention import CapturedAttention, capture_cross_attention, mean_map, word_tokens
from diffusae.capture.generate import generate
from diffusae.errors import UserError, together
from diffusae.prompts.prompt_set import Prompt
from diffusae.runs.disk import require_free
from diffusae.runs.lock import directory_lock
from diffusae.runs.record import RunRecord, run_record, state
from diffusae.sources import fingerprint
from diffusae.stages.collection import (
    ATTENTION,
    SEEN_SPLITS,
    finest_grid,
    groups_of,
    stored_in,
    streams_of,
    subsampling_of,
    words_of,
)
from diffusae.stages.collection_tasks import STAGE as COLLECT_PART
from diffusae.stages.collection_tasks import (
    WAIT_S,
    end_part,
    merge,
    own_faults,
    part_lock,
    refuse_running,
    require_same,
)
from diffusae.stages.estimate import bytes_finished, estimate
from diffusae.stages.model import describe_model, load_model, sampling, scheduler_timestep
from diffusae.stages.progress import Advance, progress_bar
from diffusae.stages.study import Study

log = logging.getLogger(__name__)


def collect(cfg: DictConfig) -> bool:
    """Generate the study's pictures once and write the updates of every cell; whole groups are never redone. False: it is
    finished already.

    With `collect.shard=i/n`, only this task's share, beside the other tasks; the last one to end finishes the whole. With
    `collect.merge`, nothing is generated: the parts of other directories are brought together.
    """
    study = Study(cfg)
    study.check()
    shard, sources = OmegaConf.select(cfg, "collect.shard"), OmegaConf.select(cfg, "collect.merge")
    if shard is not None and sources is not None:
        raise UserError(
            "collect.shard and collect.merge exclude each other; merge when all parts are collected"
        )
    if shard is not None:
        return _collect_part(study, Part.parse(shard))
    with directory_lock(study.activations):
        refuse_running(study.activations)
        if sources is not None:
            listed = [sources] if isinstance(sources, str) else sources
            return _merge(study, [str(source) for source in listed])
        return collect_into(study)


def collect_into(study: Study) -> bool:
    """`collect` for a caller that holds the lock."""
    if study.cfg.activations.source is not None:
        log.info("%s: the collection is that of %s", study.activations, study.cfg.activations.source)
        return False
    determines = _determines(study)
    require_same(study.activations, determines)
    if state(study.activations, determines=determines, parents={}) == "finished" and _sound(study):
        log.info("%s is collected already", study.activations)
        return False
    description = _checked(study)
    with _recorded(study, study.activations, "collect", determines):
        _generate(study, determines, description).finish()
    return True


def _collect_part(study: Study, part: Part) -> bool:
    """The share of one task. False: it is finished already."""
    root, determines = study.activations, _determines(study)
    place, groups = part.directory(root), _count_groups(study)
    begun = state(place, determines=determines, parents={}) != "finished"
    description = _checked(study) if begun else None  # refused before anything is written
    record = partial(_recorded, study, place, COLLECT_PART, determines)
    with part_lock(root, part, determines, record if begun else nullcontext) as held:
        skipped = not begun and _own_sound(root, part, groups)
        if skipped:
            log.info("%s of %s is collected already", part, root)
        else:
            if not begun:
                held.enter_context(record())
            _generate(study, determines, description or _checked(study), part)
        whole = state(root, determines=determines, parents={}) == "finished" and (root / MANIFEST).exists()
        if not (skipped and whole):
            end_part(study, part, held, determines=determines, groups=groups)
    return not skipped


def _checked(study: Study) -> Description:
    """The model's description, once hookpoints and disk are found to do."""
    description = describe_model(study.cfg.model)
    check_hookpoints(study, description)
    _require_disk(study, description)
    return description


def _own_sound(root: Path, part: Part, groups: int) -> bool:
    """Whether a finished task's share is whole; damaged groups are named and given up."""
    faults = own_faults(root, part)
    for fault in faults:
        log.warning("damaged: %s", fault)
    discard_damaged(root, faults)
    missing = ActivationWriter.reopen(root, owns=part.owns).missing_groups(groups)
    return not any(part.owns(index) for index in missing)


def _merge(study: Study, sources: list[str]) -> bool:
    determines = _determines(study)
    if state(study.activations, determines=determines, parents={}) == "finished" and _sound(study):
        log.info("%s is collected already", study.activations)
        return False
    merge(study, sources, determines=determines, groups=_count_groups(study))
    return True


def _count_groups(study: Study) -> int:
    return sum(1 for _ in groups_of(study.prompts, study.cfg.activations.group_size))


def _recorded(
    study: Study, place: Path, stage: str, determines: dict[str, Any]
) -> AbstractContextManager[RunRecord]:
    return run_record(
        place, stage=stage, config=study.config(), determines=determines, parents={}, seed=study.cfg.seed
    )


def _generate(
    study: Study, determines: dict[str, Any], description: Description, part: Part | None = None
) -> ActivationWriter:
    """Generate and write every group that is not finished, of one task or of all."""
    model = study.cfg.model
    groups = [
        (index, group)
        for index, group in enumerate(groups_of(study.prompts, study.cfg.activations.group_size))
        if part is None or part.owns(index)
    ]
    pipe = load_model(model)
    adapter = adapter_of(pipe)
    tokenizer, tokens = adapter.words(pipe, model.text_tokens)
    told = _told_truncations(tokenizer, tokens, study.prompts)
    streams = streams_of(
        study,
        description,
        lambda t: scheduler_timestep(pipe, adapter, model, t),
        tokens,
    )
    header = {
        "model": model.name,
        "source": determines["model"]["source"],
        "scheduler": type(pipe.scheduler).__name__,
        "steps": model.steps,
        "guidance": model.guidance,
        "truncated_prompts": told,
    }
    # What is collected here is written by the first and compared by the others.
    shared = nullcontext() if part is None else directory_lock(study.activations, wait_s=WAIT_S)
    with shared:
        writer = ActivationWriter(
            study.activations,
            streams=streams,
            header=header,
            subsampling=subsampling_of(study),
            owns=None if part is None else part.owns,
        )
    finished = writer.finished_groups()
    recorder = _Recorder(study, pipe, streams, finest_grid(study, description))
    done = sum(len(group) for index, group in groups if index in finished)
    total = sum(len(group) for _, group in groups)
    with progress_bar("pictures", total=total, done=done) as (advance, _):
        for index, group in groups:
            if index not in finished:
                split = group[0].split
                seen = split in SEEN_SPLITS
                records = recorder.records(group, advance, decode=seen)
                left_out = [stream.folder for stream in streams if not stored_in(stream, split)]
                written = writer.write_group(index, records, with_images=seen, leave_out=left_out)
                for rejected in written.rejected:
                    log.warning("rejected: %s", rejected)
    return writer


def _determines(study: Study) -> dict[str, Any]:
    """What decides the bytes of a collection."""
    model = study.model_determines()
    model.pop("batch_size")
    source = fingerprint(model["source"])
    if source is not None:
        model["source"] = f"files {source}"
    prompts = json.dumps([[p.image_id, p.text, p.seed, p.split] for p in study.prompts])
    limits = {name: study.cfg.activations[name] for name in ("positions_per_image", "max_vectors")}
    limits = {name: value for name, value in limits.items() if value is not None}
    return {
        "model": model,
        "grid": study.part("grid"),
        "prompts": hashlib.sha256(prompts.encode()).hexdigest()[:16],
        "counts": study.part("prompts")["counts"],
        "seed": study.cfg.seed,
        "group_size": study.cfg.activations.group_size,
        **({"subsampling": limits} if limits else {}),
    }


def _sound(study: Study) -> bool:
    """Whether a finished collection is whole; damaged groups are named and given up, so that they are redone."""
    try:
        faults = verify(study.activations, Manifest.load(study.activations))
    except UserError as error:
        log.warning("%s", error)
        return False
    for fault in faults:
        log.warning("damaged: %s", fault)
    discard_damaged(study.activations, faults)
    return not faults


def check_hookpoints(study: Study, description: Description) -> None:
    """Raise one `UserError` for every configured hookpoint that the model does not have, and for every other thing that
    its configuration says of it and that is not so.
    """
    model, faults = study.cfg.model, []
    for block, wanted in model.hookpoints.items():
        if wanted is None:  # model=custom: a block that this study leaves out
            continue
        try:
            find(description.hookpoints, wanted)
        except UserError as error:
            faults.append(f"block {block} of model {model.name}: {error}")
    for name, found in (("guidance_layout", description.layout), ("latent_scale", description.latent_scale)):
        if model[name] not in (None, found, "none"):
            faults.append(f"model.{name}={model[name]}, but the model's is {found}; set that, or null")
    for side in ("height", "width"):
        if model[side] % description.scale:
            lower = max(1, model[side] // description.scale) * description.scale
            faults.append(
                f"model.{side}={model[side]} is not a multiple of {description.scale}; give one, such as {lower}"
            )
    together(faults)


def _require_disk(study: Study, description: Description) -> None:
    """Refuse what the free disk cannot hold beside what is finished already."""
    needed = estimate(study, description).bytes_to_collect - bytes_finished(study.activations)
    if not study.cfg.activations.ignore_free_disk:
        require_free(study.activations, max(needed, 0))


def _told_truncations(tokenizer: Any, limit: int, prompts: Sequence[Prompt]) -> int:
    """Count the captions that the text encoder will see cut off, and say so."""
    lengths = [len(ids) for ids in tokenizer([p.text for p in prompts]).input_ids]
    cut = [p for p, length in zip(prompts, lengths, strict=True) if length > limit]
    if cut:
        log.warning(
            "%d of %d prompts exceed %d tokens and are truncated: %s%s",
            len(cut),
            len(prompts),
            limit,
            "; ".join(f"{p.where or f'prompt {p.image_id}'} ({p.text[:60]!r})" for p in cut[:10]),
            f"; and {len(cut) - 10} more" if len(cut) > 10 else "",
        )
    return len(cut)


class _Recorder:
    """Turns prompts into records, batch by batch."""

    def __init__(self, study: Study, pipe: Any, streams: Sequence[Stream], finest: tuple[int, int]) -> None:
        self.model, self.grid, self.pipe, self.finest = study.cfg.model, study.cfg.grid, pipe, finest
        self.tokenizer, self.tokens = adapter_of(pipe).words(pipe, self.model.text_tokens)
        self.streams = streams

    def records(self, prompts: Sequence[Prompt], advance: Advance, *, decode: bool) -> Iterator[ImageRecord]:
        """One record a prompt, all of one split; `advance(count)` is called after each batch."""
        streams = [stream for stream in self.streams if stored_in(stream, prompts[0].split)]
        timesteps = sorted({stream.timestep for stream in streams})
        for start in range(0, len(prompts), self.model.batch_size):
            batch = prompts[start : start + self.model.batch_size]
            with self._attention(streams, timesteps) as attention:
                made = generate(
                    self.pipe,
                    [prompt.text for prompt in batch],
                    [prompt.seed for prompt in batch],
                    **sampling(self.model),
                    hookpoints={block: self.model.hookpoints[block] for block in self.grid.blocks},
                    timesteps=timesteps,
                    conditionings=self.grid.conditionings,
                    decode=decode,
                )
            for row, places in made.nonfinite.items():
                log.warning(
                    "not finite: %r, seed %d: %s", batch[row].text, batch[row].seed, ", ".join(places)
                )
            maps = {} if attention is None else self._maps(attention, timesteps)
            tensors = {
                stream.folder: maps[stream.timestep]
                if stream.block == ATTENTION
                else made.updates[stream.block, stream.timestep, stream.conditioning]
                for stream in streams
            }
            for row, prompt in enumerate(batch):
                yield ImageRecord(
                    image_id=prompt.image_id,
                    prompt=prompt.text,
                    seed=prompt.seed,
                    split=prompt.split,
                    updates={folder: tensor[row].float().numpy() for folder, tensor in tensors.items()},
                    image=None if made.images is None else made.images[row],
                    meta={"word_tokens": self._word_tokens(prompt.text)},
                )
            advance(len(batch))

    def _attention(
        self, streams: Sequence[Stream], timesteps: Sequence[float]
    ) -> AbstractContextManager[CapturedAttention | None]:
        if any(stream.block == ATTENTION for stream in streams):
            return capture_cross_attention(self.pipe, timesteps)
        return nullcontext()

    def _maps(self, attention: CapturedAttention, timesteps: Sequence[float]) -> dict[float, Tensor]:
        return {t: mean_map(attention, t, grid=self.finest)[..., : self.tokens] for t in timesteps}

    def _word_tokens(self, text: str) -> dict[str, list[int]]:
        """Where each word of a caption stands among its tokens, so that later stages need no tokenizer."""
        return {word: word_tokens(self.tokenizer, text, word, limit=self.tokens) for word in words_of(text)}
