"""Writing a collection group by group. A kill at any moment loses only the current group."""

from __future__ import annotations

import errno
import logging
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from diffusae.activations.group_filling import Encode, GroupFilling, plain_json
from diffusae.activations.hashed_tar import hashed_tar
from diffusae.activations.journal import journal_path, read_journals, read_note, size_of
from diffusae.activations.manifest import MANIFEST, Manifest
from diffusae.activations.schema import (
    GROUPS,
    IMAGES,
    SCHEMA_VERSION,
    CodeStream,
    CollectedSample,
    Group,
    Shard,
    Stream,
    bytes_per_image,
)
from diffusae.activations.settings import NumbersName
from diffusae.activations.stored_numbers import DEFAULT, stored_numbers
from diffusae.activations.subsampling import Subsampling
from diffusae.errors import UserError
from diffusae.files import (
    TEMPORARY_SUFFIX,
    atomic_write_json,
    is_left_over,
    sha256_of,
    write_sealed,
)
from diffusae.parsing import reading, typed

logger = logging.getLogger(__name__)

COLLECTION = f"{GROUPS}/collection.json"


@dataclass(frozen=True, kw_only=True)
class _Collection:
    """The contents of collection.json, without its schema version."""

    header: dict[str, Any]
    with_images: bool
    streams: dict[str, Stream]
    codes: dict[str, CodeStream] = field(default_factory=dict)
    subsampling: Subsampling | None = None
    ragged: bool = False
    dtype: NumbersName = DEFAULT


class ActivationWriter:
    """Writes a group of images into one tar per stream, whole or not at all, and the manifest last.

    Args:
        root: the collection's directory. The caller holds its lock.
        streams: the streams that every image must have.
        header: plain JSON on the collection as a whole (model, scheduler, steps, guidance, ...).
        with_images: keep the pictures too.
        subsampling: the positions that are stored; None: all. Records have whole grids anyway.
        ragged: samples differ in length; every record lists the positions of its rows.
        dtype: the stored type of updates.
        codes: stored in the place of their streams' updates.
        encoders: folder of codes -> what encodes. Needed to write groups with codes.
        owns: whether this writer may write a group, if several tasks share the directory. Then it
            removes only what killed writers of its own groups have left.

    Raises:
        UserError: two streams share a folder, or `root` holds another collection (the message
            shows the differences).
    """

    def __init__(
        self,
        root: Path | str,
        *,
        streams: Sequence[Stream],
        header: Mapping[str, Any],
        with_images: bool = True,
        subsampling: Subsampling | None = None,
        ragged: bool = False,
        dtype: str = DEFAULT,
        codes: Sequence[CodeStream] = (),
        encoders: Mapping[str, Encode] | None = None,
        owns: Callable[[int], bool] | None = None,
    ) -> None:
        self.root = Path(root)
        self.codes, self.encoders = tuple(codes), encoders or {}
        self.numbers = stored_numbers(dtype)
        self.owns = owns
        self.streams = {stream.folder: stream for stream in streams}
        if not streams:
            raise UserError(
                "a collection needs at least one stream; choose blocks, timesteps and conditionings"
            )
        if len(self.streams) < len(streams):
            folders = [stream.folder for stream in streams]
            twice = sorted({folder for folder in folders if folders.count(folder) > 1})
            raise UserError(
                f"two streams share a folder ({', '.join(twice)}); choose timesteps at least 0.01 "
                "apart"
            )
        self.with_images = with_images
        self.subsampling, self.ragged = subsampling, ragged
        self.header = plain_json("the header", header)
        self._read: set[tuple[str, int]] = set()
        """Shards that were read and are as written, with their times."""
        self._remove_stale_temporaries()
        self._claim_root()
        sizes = {group.image_size for group in self.finished_groups().values()} - {None}
        self._image_size: tuple[int, int] | None = sizes.pop() if sizes else None

    def _remove_stale_temporaries(self) -> None:
        """Remove the temporary files of killed writers, but not of running ones."""
        for path in self.root.rglob(f"*{TEMPORARY_SUFFIX}"):
            if self.owns is not None:  # the process may be on another machine
                group = re.match(r"(?:shard-)?(\d{6})\.(?:tar|json)\.", path.name)
                if group and self.owns(int(group[1])):
                    logger.info("removing %s, left by a task that was killed", path)
                    path.unlink(missing_ok=True)
                continue
            if is_left_over(path):
                logger.info("removing %s, left by a writer that was killed", path)
                path.unlink(missing_ok=True)

    def _claim_root(self) -> None:
        """Write collection.json, or compare with the existing one."""
        described = {
            "schema_version": SCHEMA_VERSION,
            "header": self.header,
            "with_images": self.with_images,
            "streams": {folder: asdict(stream) for folder, stream in self.streams.items()},
        }
        if self.codes:
            described["codes"] = {codes.folder: asdict(codes) for codes in self.codes}
        if self.subsampling is not None:
            described["subsampling"] = self.subsampling.to_json()
        if self.ragged:
            described["ragged"] = True
        if self.numbers.name != DEFAULT:
            described["dtype"] = self.numbers.name
        ours = plain_json("the collection", described)
        path = self.root / COLLECTION
        try:
            existing = read_note(path, remedy="remove it and run the same command again")
        except FileNotFoundError:
            write_sealed(path, ours)
            return
        lines = differences(existing, ours)
        if lines:
            raise UserError(
                f"{self.root} holds another collection; it differs (there -> now) in:{lines}\n"
                "choose another directory, or remove this one"
            )

    @classmethod
    def reopen(cls, root: Path | str, *, owns: Callable[[int], bool] | None = None) -> Self:
        """The writer of an existing collection, from its collection.json.

        Raises:
            UserError: collection.json is missing or damaged.
        """
        path, remedy = Path(root) / COLLECTION, "run `diffusae collect`"
        try:
            value = read_note(path, remedy=remedy)
        except FileNotFoundError:
            raise UserError(f"{path} is missing; {remedy}") from None
        with reading(path, remedy=remedy):
            value.pop("schema_version", None)
            described = typed(_Collection, value)
        return cls(
            root,
            streams=list(described.streams.values()),
            header=described.header,
            with_images=described.with_images,
            subsampling=described.subsampling,
            ragged=described.ragged,
            dtype=described.dtype,
            codes=list(described.codes.values()),
            owns=owns,
        )

    def finished_groups(self) -> dict[int, Group]:
        """The groups with a journal and shards as they were written. Others must be redone."""
        groups = {}
        for index, group in read_journals(self.root).items():
            written = journal_path(self.root, index).stat().st_mtime_ns
            wrong = [shard.path for shard in group.shards if not self._is_whole(shard, written)]
            if wrong:
                logger.warning(
                    "group %d is unfinished; missing or damaged: %s", index, ", ".join(wrong)
                )
            else:
                groups[index] = group
        return groups

    def _is_whole(self, shard: Shard, journal_ns: int) -> bool:
        """Whether a shard is as written. One that changed after its journal is read, once."""
        path = self.root / shard.path
        if size_of(path) != shard.bytes:
            return False
        changed = path.stat().st_mtime_ns
        if changed <= journal_ns or (shard.path, changed) in self._read:
            return True
        if whole := sha256_of(path) == shard.sha256:
            self._read.add((shard.path, changed))
        return whole

    def write_group(
        self,
        index: int,
        records: Iterable[CollectedSample],
        *,
        with_images: bool = True,
        leave_out: Collection[str] = (),
    ) -> Group:
        """Write one group of images, all of one split, and its journal; return the journal.

        Records are written as they come, so a generator keeps one image in memory. An image with a
        non-finite stored update is rejected in every stream, logged, and listed in the journal's
        `rejected`.

        Args:
            with_images: False leaves out this group's pictures, which then need not be decoded.
            leave_out: folders of streams that this group and its records do not have.

        Raises:
            UserError: the group is empty, all of several images are rejected, splits are mixed, an
                id repeats, shapes do not fit, or the disk is full.
        """
        journal = journal_path(self.root, index)
        # Neither file may list shards that are about to change.
        (self.root / MANIFEST).unlink(missing_ok=True)
        journal.unlink(missing_ok=True)
        streams = {f: stream for f, stream in self.streams.items() if f not in leave_out}
        coded = {codes.stream for codes in self.codes}
        folders = [folder for folder in streams if folder not in coded]
        folders += [codes.folder for codes in self.codes]
        folders += [IMAGES] if self.with_images and with_images else []
        names = {folder: f"{folder}/shard-{index:06d}.tar" for folder in folders}
        filling = None
        try:
            with ExitStack() as stack:
                filling = GroupFilling(
                    streams=streams,
                    tars={f: stack.enter_context(hashed_tar(self.root / names[f])) for f in names},
                    encoders={
                        codes.folder: (codes.stream, self.encoders[codes.folder])
                        for codes in self.codes
                    },
                    image_size=self._image_size,
                    subsampling=self.subsampling,
                    ragged=self.ragged,
                    numbers=self.numbers,
                )
                for record in records:
                    filling.add(record)
                if filling.split is None:
                    raise UserError(f"group {index} has no images; leave empty groups out")
                filling.refuse_all_rejected(index)
            group = filling.group(index, names)
            write_sealed(journal, group.to_json())
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise self._disk_full(index, filling) from error
        self._image_size = group.image_size or self._image_size
        return group

    def _disk_full(self, index: int, filling: GroupFilling | None) -> UserError:
        images = filling.count + 1 if filling else 1
        coded, number = {codes.stream for codes in self.codes}, self.numbers.bytes
        streams = [stream for folder, stream in self.streams.items() if folder not in coded]
        size = bytes_per_image(streams, image_size=self._image_size, bytes_per_number=number)
        codes = [filling.tars[codes.folder].bytes for codes in self.codes] if filling else []
        per_image = (size + sum(codes) / images) / 1e6
        free = shutil.disk_usage(self.root).free / 1e6
        return UserError(
            f"the disk of {self.root} is full: group {index} needs {images * per_image:.3f} MB for "
            f"its first {images} images ({per_image:.3f} MB each), {free:.3f} MB are free; "
            f"the {len(self.finished_groups())} finished groups are kept. Free some space and run "
            "the same command again"
        )

    def missing_groups(self, count: int | None = None) -> list[int]:
        """The unfinished groups among the first `count` (None: up to the last finished group)."""
        groups = self.finished_groups()
        count = max(groups, default=0) + 1 if count is None else count
        return [index for index in range(count) if index not in groups]

    def finish(self, count: int | None = None) -> Manifest:
        """Write the manifest over all finished groups and return it.

        Raises:
            UserError: a group among the first `count` is unfinished, or picture sizes differ.
        """
        groups = self.finished_groups()
        missing = self.missing_groups(count)
        if missing:
            raise UserError(
                f"groups {missing} of {self.root} are not finished; run the same command again"
            )
        sizes = {group.image_size for group in groups.values()} - {None}
        if len(sizes) > 1:
            raise UserError(
                f"{self.root} mixes pictures of the sizes {sorted(map(str, sizes))}; collect them "
                "again"
            )
        splits: dict[str, dict[str, int]] = {}
        for group in groups.values():
            counts = splits.setdefault(group.split, {"images": 0, "rejected": 0})
            counts["images"] += group.count
            counts["rejected"] += len(group.rejected)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            header=self.header,
            streams=tuple(self.streams.values()),
            image_size=sizes.pop() if sizes else None,
            splits=splits,
            entries=tuple(shard for _, group in sorted(groups.items()) for shard in group.shards),
            subsampling=self.subsampling,
            ragged=self.ragged,
            dtype=self.numbers.name,
            codes=self.codes,
        )
        self._warn_of_rejected(splits)
        atomic_write_json(self.root / MANIFEST, manifest.to_json())
        return manifest

    def _warn_of_rejected(self, splits: Mapping[str, Mapping[str, int]]) -> None:
        for split, counts in splits.items():
            if rejected := counts["rejected"]:
                total = counts["images"] + rejected
                logger.warning(
                    "%d of %d samples of split %s (%.2g %%) are rejected: an update is not finite "
                    "in %s; the journals below %s list them",
                    rejected,
                    total,
                    split,
                    100 * rejected / total,
                    self.numbers.name,
                    self.root / GROUPS,
                )


def differences(before: Any, now: Any) -> str:
    """The differences of two nested dicts, one per line with both values; "" if there are none."""
    old, new = _flat(before), _flat(now)
    return "".join(
        f"\n  {key}: {old.get(key, '(absent)')} -> {new.get(key, '(absent)')}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested dict as a flat one with dotted keys."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        key: leaf
        for name, inner in value.items()
        for key, leaf in _flat(inner, f"{prefix}.{name}" if prefix else name).items()
    }
