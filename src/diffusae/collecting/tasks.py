"""Several tasks at one collection: who may work beside whom, and the manifest when the last of them
ends.

Whatever tasks share (what is collected, the run.json, the manifest) is written under the
directory's own lock, which a task holds for moments; the lock of its part it holds as long as it
works.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from diffusae.activations.journal import read_journals
from diffusae.activations.manifest import Manifest
from diffusae.activations.merge import merge_parts
from diffusae.activations.parts import Part, missing_in_words, parts_at
from diffusae.activations.reader import Fault
from diffusae.activations.writer import ActivationWriter
from diffusae.errors import UserError
from diffusae.files import sha256_of
from diffusae.runs.lock import directory_lock, holder
from diffusae.runs.record import state
from diffusae.study.study import Study

log = logging.getLogger(__name__)

STAGE = "collect_part"
WAIT_S = 60.0
"""For a directory that other tasks hold for moments; who holds it longer works on all of it."""


def running_parts(root: Path) -> dict[Part, str]:
    """The tasks at work in `root`, and who they are. The caller holds the lock of `root`."""
    return {part: who for part, path in parts_at(root).items() if (who := holder(path)) is not None}


def refuse_running(root: Path) -> None:
    """Raise `UserError` where tasks are at work in `root`; for a caller that wants all of it."""
    if running := running_parts(root):
        raise UserError(
            f"{root} is in use by {_named(running)}; wait for them, or take a part that nobody has"
        )


@contextmanager
def part_lock(
    root: Path,
    part: Part,
    determines: Mapping[str, Any],
    record: Callable[[], AbstractContextManager[object]],
) -> Iterator[ExitStack]:
    """Hold a part of the collection with its `record`; the stack that is yielded lets go of both
    early.

    The record is begun before another task may begin, so that the next one compares with it.

    Raises:
        UserError: another process has this part, or all of it; tasks of another count are at work;
            or what lies there is of another configuration, shown beside ours.
    """
    with ExitStack() as held:
        with directory_lock(root, wait_s=WAIT_S):
            others = {
                other: who
                for other, who in running_parts(root).items()
                if other.count != part.count
            }
            if others:
                raise UserError(
                    f"{root} is in use by {_named(others)}, whose groups overlap with those of"
                    f" {part}; use one number of tasks, or wait for them"
                )
            require_same(root, determines)
            held.enter_context(directory_lock(part.directory(root)))
            held.enter_context(record())
        yield held


def require_same(root: Path, determines: Mapping[str, Any]) -> None:
    """Raise `UserError`, both shown, where `root` or one of its parts holds a collection of another
    configuration.
    """
    for place in (root, *parts_at(root).values()):
        state(place, determines=determines, parents={})


def own_faults(root: Path, part: Part) -> list[Fault]:
    """The shards of a task's finished groups whose bytes are not those of their journals."""
    faults = []
    for index, group in read_journals(root).items():
        for shard in group.shards if part.owns(index) else ():
            if (root / shard.path).exists() and (
                digest := sha256_of(root / shard.path)
            ) != shard.sha256:
                faults.append(
                    Fault(shard.path, "hash", f"sha256 {shard.sha256}", f"sha256 {digest}")
                )
    return faults


def end_part(
    study: Study, part: Part, held: ExitStack, *, determines: Mapping[str, Any], groups: int
) -> None:
    """Let go of a part and, as the last of the tasks to end, finish the collection.

    Tasks end one after the other under the directory's lock, and none can begin meanwhile: the last
    one sees no other.
    """
    root = study.activations
    with directory_lock(root, wait_s=WAIT_S):
        held.close()
        if running := running_parts(root):
            log.info(
                "%s: done; %s still at work, the last to end finishes the collection",
                part,
                _named(running),
            )
            return
        writer = ActivationWriter.reopen(root, owns=lambda _: False)
        if missing := writer.missing_groups(groups):
            log.warning(
                "%s: done, but %d of %d groups are missing: %s", part, len(missing), groups,
                missing_in_words(missing, parts_at(root)),
            )  # fmt: skip
            return
        finish(study, writer, determines=determines, groups=groups)


def finish(
    study: Study, writer: ActivationWriter, *, determines: Mapping[str, Any], groups: int
) -> Manifest:
    """Write the manifest over all groups, and the collection's own run.json."""
    with study.recorded(study.activations, "collect", determines=determines, locks=False):
        manifest = writer.finish(groups)
    log.info("%s: all %d groups are there", study.activations, groups)
    return manifest


def merge(study: Study, sources: list[str], *, determines: Mapping[str, Any], groups: int) -> None:
    """Bring parts from directories of their own together and finish the collection. The caller
    holds its lock.

    Raises:
        UserError: as `merge_parts`, and for a source that a task works in, or whose run is of
            another configuration.
    """
    root = study.activations
    if twice := sorted({source for source in sources if sources.count(source) > 1}):
        raise UserError(f"collect.merge names {', '.join(twice)} twice; name every part once")
    for source in map(Path, sources):
        if not source.is_dir():
            raise UserError(
                f"{source} is no directory; collect.merge takes the directories of parts"
            )
        if source.resolve() == root.resolve():
            raise UserError(f"collect.merge names {source}, where the whole is to be; leave it out")
        refuse_running(source)
        require_same(source, determines)
    came = merge_parts(root, sources, groups=groups)
    log.info("%d groups came from %d directories", came, len(sources))
    finish(study, ActivationWriter.reopen(root), determines=determines, groups=groups)


def _named(running: Mapping[Part, str]) -> str:
    return ", ".join(
        f"collect.shard={part} ({who})"
        for part, who in sorted(running.items(), key=lambda e: e[0].index)
    )
