"""Writing a collection group by group, so that a kill at any moment costs the group at hand and no
other.
"""

from __future__ import annotations

import errno
import logging
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from diffusae.activations.group_filling import GroupFilling, plain_json
from diffusae.activations.hashed_tar import hashed_tar
from diffusae.activations.journal import journal_path, read_journals, read_note, size_of
from diffusae.activations.manifest import MANIFEST, Manifest
from diffusae.activations.schema import (
    GROUPS,
    IMAGES,
    SCHEMA_VERSION,
    Group,
    ImageRecord,
    Shard,
    Stream,
    bytes_per_image,
)
from diffusae.activations.settings import NumbersName
from diffusae.activations.stored_numbers import DEFAULT, stored_numbers
from diffusae.activations.subsampling import Subsampling
from diffusae.errors import UserError
from diffusae.files import TEMPORARY_SUFFIX, atomic_write_json, is_left_over, write_sealed
from diffusae.parsing import reading, typed

logger = logging.getLogger(__name__)

COLLECTION = f"{GROUPS}/collection.json"


@dataclass(frozen=True, kw_only=True)
class _Collection:
    """What collection.json says beside its schema version."""

    header: dict[str, Any]
    with_images: bool
    streams: dict[str, Stream]
    subsampling: Subsampling | None = None
    ragged: bool = False
    dtype: NumbersName = DEFAULT


class ActivationWriter:
    """Writes groups of images into one tar a stream, each group whole or not at all, and the
    manifest last.

    Args:
        root: the collection's directory. One writer at a time: the caller holds the directory's
            lock.
        streams: the streams that every image must come with.
        header: plain JSON on the collection as a whole (model, scheduler, steps, guidance, ...).
        with_images: keep the pictures too.
        subsampling: which positions are stored; None: all. Records come with whole grids either
            way.
        ragged: samples differ in length; every record names the positions of its rows.
        dtype: how the numbers of updates are stored.
        owns: whether this writer may write a group. With others at work beside it on other groups,
            it clears up after killed writers of its own groups alone.

    Raises:
        UserError: two streams share a folder, or `root` holds another collection; the difference is
            shown.
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
        owns: Callable[[int], bool] | None = None,
    ) -> None:
        self.root = Path(root)
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
                f"two streams share a folder ({', '.join(twice)}); choose timesteps at least 0.01"
                " apart"
            )
        self.with_images = with_images
        self.subsampling, self.ragged = subsampling, ragged
        self.header = plain_json("the header", header)
        self._remove_stale_temporaries()
        self._claim_root()
        sizes = {group.image_size for group in self.finished_groups().values()} - {None}
        self._image_size: tuple[int, int] | None = sizes.pop() if sizes else None

    def _remove_stale_temporaries(self) -> None:
        """Remove what killed writers have left; files of a writer that still runs stay."""
        for path in self.root.rglob(f"*{TEMPORARY_SUFFIX}"):
            if self.owns is not None:  # a process id says nothing of a task on another machine
                group = re.match(r"(?:shard-)?(\d{6})\.(?:tar|json)\.", path.name)
                if group and self.owns(int(group[1])):
                    logger.info("removing %s, left by a task that was killed", path)
                    path.unlink(missing_ok=True)
                continue
            if is_left_over(path):
                logger.info("removing %s, left by a writer that was killed", path)
                path.unlink(missing_ok=True)

    def _claim_root(self) -> None:
        """Write down what is collected here, or compare with what is written already."""
        described = {
            "schema_version": SCHEMA_VERSION,
            "header": self.header,
            "with_images": self.with_images,
            "streams": {folder: asdict(stream) for folder, stream in self.streams.items()},
        }
        if self.subsampling is not None:
            described["subsampling"] = self.subsampling.to_json()
        if self.ragged:
            described["ragged"] = True
        if self.numbers.name != DEFAULT:
            described["dtype"] = self.numbers.name
        ours = plain_json("the collection", described)
        path = self.root / COLLECTION
        try:
            there = read_note(path, remedy="remove it and run the same command again")
        except FileNotFoundError:
            write_sealed(path, ours)
            return
        lines = differences(there, ours)
        if lines:
            raise UserError(
                f"{self.root} holds another collection; it differs (there -> now) in:{lines}\n"
                "choose another directory, or remove this one"
            )

    @classmethod
    def reopen(cls, root: Path | str, *, owns: Callable[[int], bool] | None = None) -> Self:
        """The writer of a collection that was begun, as its collection.json describes it.

        Raises:
            UserError: there is none, or it is damaged.
        """
        path, remedy = Path(root) / COLLECTION, "run `diffusae collect`"
        try:
            value = read_note(path, remedy=remedy)
        except FileNotFoundError:
            raise UserError(f"{path} is missing; {remedy}") from None
        with reading(path, remedy=remedy):
            value.pop("schema_version", None)
            told = typed(_Collection, value)
        return cls(
            root,
            streams=list(told.streams.values()),
            header=told.header,
            with_images=told.with_images,
            subsampling=told.subsampling,
            ragged=told.ragged,
            dtype=told.dtype,
            owns=owns,
        )

    def finished_groups(self) -> dict[int, Group]:
        """The groups with a journal and with shards of the right size; all others are to be
        redone.
        """
        found = {}
        for index, group in read_journals(self.root).items():
            wrong = [
                shard.path
                for shard in group.shards
                if size_of(self.root / shard.path) != shard.bytes
            ]
            if wrong:
                logger.warning(
                    "group %d counts as unfinished; missing or cut: %s", index, ", ".join(wrong)
                )
            else:
                found[index] = group
        return found

    def write_group(
        self,
        index: int,
        records: Iterable[ImageRecord],
        *,
        with_images: bool = True,
        leave_out: Collection[str] = (),
    ) -> Group:
        """Write one group of images, all of one split, and its journal; return the journal.

        Records are written as they come, so a generator keeps one image in memory. An image with an
        update that is not finite as it is stored is rejected in every stream, logged, counted and
        kept in the journal's `rejected`. `with_images=False` leaves this group's pictures out: then
        they need not be decoded. `leave_out` names folders of streams that this group has no shard
        of; its records come without them.

        Raises:
            UserError: an empty group, one of several images that are all rejected, mixed splits, a
                double id, shapes not the streams', or a full disk.
        """
        journal = journal_path(self.root, index)
        # Neither file may vouch for shards that are about to change.
        (self.root / MANIFEST).unlink(missing_ok=True)
        journal.unlink(missing_ok=True)
        streams = {
            folder: stream for folder, stream in self.streams.items() if folder not in leave_out
        }
        folders = [*streams, *([IMAGES] if self.with_images and with_images else [])]
        names = {folder: f"{folder}/shard-{index:06d}.tar" for folder in folders}
        filling = None
        try:
            with ExitStack() as stack:
                tars = {
                    folder: stack.enter_context(hashed_tar(self.root / name))
                    for folder, name in names.items()
                }
                filling = GroupFilling(
                    streams=streams,
                    tars=tars,
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
            group = Group(
                index=index,
                split=filling.split,
                count=filling.count,
                rejected=tuple(filling.rejected),
                # Of its own pictures only: what came before it must not show in a journal.
                image_size=filling.image_size if IMAGES in tars else None,
                shards=tuple(
                    Shard(
                        path=names[folder],
                        stream=folder,
                        split=filling.split,
                        samples=filling.count,
                        bytes=tar.bytes,
                        sha256=tar.sha256,
                        vectors=(
                            filling.vectors[folder] if self.ragged and folder in streams else None
                        ),
                    )
                    for folder, tar in tars.items()
                ),
            )
            write_sealed(journal, group.to_json())
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise self._disk_full(index, images=filling.count + 1 if filling else 1) from error
        self._image_size = group.image_size or self._image_size
        return group

    def _disk_full(self, index: int, *, images: int) -> UserError:
        each = bytes_per_image(
            list(self.streams.values()),
            image_size=self._image_size,
            bytes_per_number=self.numbers.bytes,
        )
        each /= 1e6
        free = shutil.disk_usage(self.root).free / 1e6
        return UserError(
            f"the disk of {self.root} is full: group {index} needs {images * each:.3f} MB for its"
            f" first {images} images ({each:.3f} MB each), {free:.3f} MB are free; the"
            f" {len(self.finished_groups())} finished groups are kept. Free some space and run the"
            " same command again"
        )

    def missing_groups(self, count: int | None = None) -> list[int]:
        """The groups that are not finished, of `count` groups; None: of those up to the last
        finished one.
        """
        groups = self.finished_groups()
        count = max(groups, default=0) + 1 if count is None else count
        return [index for index in range(count) if index not in groups]

    def finish(self, count: int | None = None) -> Manifest:
        """Write the manifest over all finished groups, which must be `count` where it is given, and
        return it.

        Raises:
            UserError: no group is finished, one is missing, or groups differ in picture size.
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
                f"{self.root} mixes pictures of the sizes {sorted(map(str, sizes))}; collect them"
                " again"
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
        )
        self._tell_rejected(splits)
        atomic_write_json(self.root / MANIFEST, manifest.to_json())
        return manifest

    def _tell_rejected(self, splits: Mapping[str, Mapping[str, int]]) -> None:
        for split, counts in splits.items():
            if rejected := counts["rejected"]:
                total = counts["images"] + rejected
                logger.warning(
                    "%d of %d samples of split %s (%.2g %%) are rejected: an update is not finite"
                    " in %s; the journals below %s name them",
                    rejected,
                    total,
                    split,
                    100 * rejected / total,
                    self.numbers.name,
                    self.root / GROUPS,
                )


def differences(there: Any, now: Any) -> str:
    """What differs between two nested dicts, a line each with both values; "" where nothing
    does.
    """
    old, new = _flat(there), _flat(now)
    return "".join(
        f"\n  {key}: {old.get(key, '(absent)')} -> {new.get(key, '(absent)')}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested dict with dotted keys, for naming what differs."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        key: leaf
        for name, inner in value.items()
        for key, leaf in _flat(inner, _join(prefix, name)).items()
    }


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
