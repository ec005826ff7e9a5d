"""Collecting every cell of the grid in one pass, group by group, and merging the parts of several
tasks.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from diffusae.activations.local_copy import COPY_FILE, SOURCE_REMEDY
from diffusae.activations.manifest import MANIFEST, Manifest
from diffusae.activations.parts import Part
from diffusae.activations.places import require_inside
from diffusae.activations.reader import discard_damaged, verify
from diffusae.activations.schema import CollectedSample
from diffusae.activations.settings import ActivationSettings, HeldOut
from diffusae.activations.stored_numbers import DEFAULT
from diffusae.activations.writer import ActivationWriter
from diffusae.backbone.describe import Description
from diffusae.backbone.hookpoints import execution_device
from diffusae.backbone.settings import ModelSettings
from diffusae.collecting.batch import Batch
from diffusae.collecting.behind import taken_behind
from diffusae.collecting.coding import Coder, coders_of, weights_of
from diffusae.collecting.collectors import Begun, Collector, collector_of
from diffusae.collecting.tasks import STAGE as COLLECT_PART
from diffusae.collecting.tasks import (
    WAIT_S,
    end_part,
    merge,
    own_faults,
    part_lock,
    refuse_running,
    require_same,
)
from diffusae.errors import UserError
from diffusae.jobs.out_of_memory import tells_memory
from diffusae.jobs.progress import Advance, progress_bar
from diffusae.masking import masked_value
from diffusae.planning.estimate import estimate
from diffusae.planning.sizes import bytes_finished
from diffusae.prompts.prompt_set import Prompt
from diffusae.runs.disk import require_free
from diffusae.runs.lock import directory_lock
from diffusae.runs.record import state
from diffusae.study.model import check_hookpoints, describe_model, load_model
from diffusae.study.settings import GridSettings
from diffusae.study.streams import (
    SEEN_SPLITS,
    recorded_blocks,
    stored_groups,
    stored_in,
    subsampling_of,
)
from diffusae.study.study import Study

log = logging.getLogger(__name__)


@tells_memory("generation", "model.batch_size", "activations.group_size")
def collect_alone(study: Study) -> bool:
    """The whole collection, where no other task is at work. False: it is finished already."""
    with _held(study):
        source = ActivationSettings.of(study.cfg).source
        if source is not None:
            log.info("%s: the collection is that of %s", study.activations, masked_value(source))
            return False
        determines = _determines(study)
        require_same(study.activations, determines)
        if _is_collected(study, determines):
            return False
        ready = _checked(study)
        with study.recorded(study.activations, "collect", determines=determines, locks=False):
            _collect(study, ready).finish()
    return True


@contextmanager
def _held(study: Study) -> Iterator[None]:
    """Hold a collection at which no task is at work."""
    _require_own(study)
    with directory_lock(study.activations):
        refuse_running(study.activations)
        yield


def _require_own(study: Study) -> None:
    """Refuse a collection of which a part lies elsewhere."""
    require_inside(study.activations)
    source = ActivationSettings.of(study.cfg).source
    if source is None and (study.activations / COPY_FILE).exists():
        raise UserError(
            f"{study.activations} is not collected here: {SOURCE_REMEDY}, or choose another name"
        )


def _is_collected(study: Study, determines: Mapping[str, Any]) -> bool:
    """Whether the collection is finished and whole, which is said."""
    if state(study.activations, determines=determines, parents={}) != "finished":
        return False
    if sound := _sound(study):
        log.info("%s is collected already", study.activations)
    return sound


def require_collected(study: Study) -> None:
    """Raise `UserError` unless the study's very collection is finished."""
    if state(study.activations, determines=_determines(study), parents={}) != "finished":
        raise UserError(
            f"{study.activations} holds no finished collection of the other splits; run `diffusae"
            " collect` with the same settings"
        )


@tells_memory("generation", "model.batch_size", "activations.group_size")
def collect_part(study: Study, part: Part) -> bool:
    """The share of one task. False: it is finished already."""
    _require_own(study)
    root, determines = study.activations, _determines(study)
    place, groups = part.directory(root), _count_groups(study)
    begun = state(place, determines=determines, parents={}) != "finished"
    ready = _checked(study) if begun else None  # refused before anything is written
    record = partial(study.recorded, place, COLLECT_PART, determines=determines, locks=False)
    with part_lock(root, part, determines, record if begun else nullcontext) as held:
        skipped = not begun and _own_sound(root, part, groups)
        if skipped:
            log.info("%s of %s is collected already", part, root)
        else:
            if not begun:
                held.enter_context(record())
            _collect(study, ready or _checked(study), part)
        whole = (
            state(root, determines=determines, parents={}) == "finished"
            and (root / MANIFEST).exists()
        )
        if not (skipped and whole):
            end_part(study, part, held, determines=determines, groups=groups)
    return not skipped


@dataclass(frozen=True)
class _Ready:
    """What is known before the model loads; `wanted` are the ids of what can be collected, and
    `coders` encode them.
    """

    description: Description
    collector: Collector
    wanted: frozenset[str]
    coders: tuple[Coder, ...]


def _checked(study: Study) -> _Ready:
    """Refuse hookpoints, disks and pictures with which the collection would fail."""
    description = describe_model(ModelSettings.of(study.cfg), text_layers=study.kind == "text")
    check_hookpoints(study, description)
    _require_disk(study, description)
    collector = collector_of(study)
    wanted = frozenset(prompt.image_id for prompt in collector.prompts())
    for group in stored_groups(study):
        if wanted.isdisjoint(prompt.image_id for prompt in group):
            raise UserError(
                f"nothing is left of a group of {len(group)} pictures, from {group[0].where} on;"
                " raise activations.group_size"
            )
    coders = tuple(coders_of(study, description)) if study.coded else ()
    return _Ready(description, collector, wanted, coders)


def _own_sound(root: Path, part: Part, groups: int) -> bool:
    """Whether a finished task's share is whole. Damaged groups are named and removed."""
    faults = own_faults(root, part)
    for fault in faults:
        log.warning("damaged: %s", fault)
    discard_damaged(root, faults)
    missing = ActivationWriter.reopen(root, owns=part.owns).missing_groups(groups)
    return not any(part.owns(index) for index in missing)


def merge_parts(study: Study, sources: list[str]) -> bool:
    """The parts of other directories brought together. False: they are already."""
    with _held(study):
        determines = _determines(study)
        if _is_collected(study, determines):
            return False
        merge(study, sources, determines=determines, groups=_count_groups(study))
    return True


def _count_groups(study: Study) -> int:
    return sum(1 for _ in stored_groups(study))


def _collect(study: Study, ready: _Ready, part: Part | None = None) -> ActivationWriter:
    """Write every group that is not finished, of one task or of all.

    On a GPU, records are encoded, hashed and written while the model makes the next batch.
    """
    groups = [
        (index, [prompt for prompt in group if prompt.image_id in ready.wanted])
        for index, group in enumerate(stored_groups(study))
        if part is None or part.owns(index)
    ]
    collector, settings = ready.collector, ActivationSettings.of(study.cfg)
    model = load_model(ModelSettings.of(study.cfg))
    begun = collector.begin(model, ready.description)
    # The first task writes what is collected here; the others compare it with theirs.
    shared = nullcontext() if part is None else directory_lock(study.activations, wait_s=WAIT_S)
    with shared:
        writer = ActivationWriter(
            study.activations,
            streams=begun.streams,
            header=begun.header,
            with_images=collector.keeps_pictures,
            subsampling=subsampling_of(study),
            ragged=collector.ragged,
            dtype=settings.dtype,
            codes=[coder.codes for coder in ready.coders],
            encoders={coder.codes.folder: coder for coder in ready.coders},
            owns=None if part is None else part.owns,
        )
    finished = writer.finished_groups()
    done = sum(len(group) for index, group in groups if index in finished)
    total = sum(len(group) for _, group in groups)
    with progress_bar(collector.what, total=total, done=done) as (advance, _):
        made = _made(begun, [group for group in groups if group[0] not in finished])
        write = partial(_write, writer, begun, settings.held_out, advance=advance)
        if _overlaps(execution_device(model)):
            taken_behind(made, write)
        else:
            write(made)
    return writer


def _overlaps(device: torch.device) -> bool:
    """Whether a second thread writes. On a CPU, generation takes all cores, and such a thread makes
    it slower.
    """
    return device.type != "cpu"


@dataclass(frozen=True)
class _Group:
    """Stands before the batches of a group."""

    index: int
    split: str
    size: int


def _made(begun: Begun, groups: Iterable[tuple[int, list[Prompt]]]) -> Iterator[_Group | Batch]:
    """Every group, followed by its batches, which the model makes when they are asked for."""
    for index, group in groups:
        yield _Group(index, group[0].split, len(group))
        yield from begun.batches(group)


def _write(
    writer: ActivationWriter,
    begun: Begun,
    held_out: HeldOut,
    made: Iterator[_Group | Batch],
    *,
    advance: Advance,
) -> None:
    """Write groups as their batches come. A group is finished right after its last batch."""

    def records(size: int) -> Iterator[CollectedSample]:
        while size > 0:
            batch = next(made)
            assert isinstance(batch, Batch)
            yield from batch.records()
            advance(batch.size)
            size -= batch.size

    for group in made:
        assert isinstance(group, _Group)
        left_out = [
            stream.folder
            for stream in begun.streams
            if not stored_in(stream, group.split, held_out)
        ]
        written = writer.write_group(
            group.index,
            records(group.size),
            with_images=group.split in SEEN_SPLITS,
            leave_out=left_out,
        )
        for rejected in written.rejected:
            log.warning("rejected: %s", rejected)


def _determines(study: Study) -> dict[str, Any]:
    """What decides the bytes of a collection."""
    settings = ActivationSettings.of(study.cfg)
    limits = {
        "positions_per_image": settings.positions_per_image,
        "max_vectors": settings.max_vectors,
    }
    limits = {name: value for name, value in limits.items() if value is not None}
    targets = recorded_blocks(study)[len(dict.fromkeys(GridSettings.of(study.cfg).blocks)) :]
    return {
        **collector_of(study).determines(),
        "seed": study.seed,
        "group_size": settings.group_size,
        **({"targets": targets} if targets else {}),
        **({"subsampling": limits} if limits else {}),
        **({} if settings.dtype == DEFAULT else {"dtype": settings.dtype}),
        # A collection without them vouches for the training pictures, which are made again from it.
        **({} if settings.store_training else {"store_training": False}),
        **({} if settings.held_out == "updates" else {"held_out": settings.held_out}),
        **({"codes": weights_of(study)} if study.coded else {}),
    }


def _sound(study: Study) -> bool:
    """Whether a finished collection is whole. Damaged groups are named and removed, so that they
    are made again.
    """
    try:
        faults = verify(study.activations, Manifest.load(study.activations))
        missing = ActivationWriter.reopen(study.activations).missing_groups(_count_groups(study))
    except UserError as error:
        log.warning("%s", error)
        return False
    for fault in faults:
        log.warning("damaged: %s", fault)
    discard_damaged(study.activations, faults)
    return not faults and not missing


def _require_disk(study: Study, description: Description) -> None:
    """Refuse what the free disk cannot hold beside what is finished already."""
    counted = estimate(study, description)
    coded = counted.bytes_with_codes
    whole = coded if study.coded else counted.bytes_to_collect - coded
    needed = whole - bytes_finished(study.activations)
    if not ActivationSettings.of(study.cfg).ignore_free_disk:
        require_free(study.activations, max(needed, 0))
