"""The manifest: the list of what a finished collection holds, written last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from diffusae.activations.places import place_faults, require_inside
from diffusae.activations.schema import (
    ATTENTION,
    IMAGES,
    SCHEMA_VERSION,
    CodeStream,
    Shard,
    Stream,
    stream_folder,
)
from diffusae.activations.settings import NumbersName
from diffusae.activations.stored_numbers import DEFAULT, StoredNumbers, stored_numbers
from diffusae.activations.subsampling import Subsampling
from diffusae.errors import UserError, together, unknown
from diffusae.files import verified
from diffusae.parsing import read_json, reading, shown, typed

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A finished collection.

    Args:
        schema_version: the layout's version.
        header: how it was collected: model, scheduler, steps, guidance, ...
        streams: the recorded streams.
        image_size: (height, width) of the pictures in pixels; None if no pictures are kept.
        splits: split -> {"images": accepted, "rejected": refused for a non-finite update}.
        entries: all shards, in the order of their groups.
        subsampling: the positions that some splits keep; None if every picture keeps its grid.
        ragged: samples differ in length and list their positions; shards count their vectors.
        dtype: how the numbers of updates are stored.
        codes: stored in the place of their streams' updates.
    """

    schema_version: int
    header: Mapping[str, Any]
    streams: tuple[Stream, ...]
    image_size: tuple[int, int] | None
    splits: Mapping[str, Mapping[str, int]]
    entries: tuple[Shard, ...]
    subsampling: Subsampling | None = None
    ragged: bool = False
    dtype: NumbersName = DEFAULT
    codes: tuple[CodeStream, ...] = ()

    @classmethod
    def load(cls, root: Path | str) -> Manifest:
        """Read `manifest.json` below `root`.

        Raises:
            UserError: the collection is unfinished or of another schema version, its manifest is
                damaged or names files outside `root`, or a link in it leads out.
        """
        path, remedy = Path(root) / MANIFEST, "run `diffusae collect` to write it again"
        require_inside(root)
        try:
            value = read_json(verified(path), remedy=remedy)
        except FileNotFoundError:
            raise UserError(
                f"no {MANIFEST} in {root}: the collection is not finished; run `diffusae collect`"
            ) from None
        if (version := value.get("schema_version")) != SCHEMA_VERSION:
            raise UserError(
                f"{path} has schema version {shown(version)}, this diffusae reads {SCHEMA_VERSION};"
                " use the diffusae that wrote it, or collect again"
            )
        missing = [
            name
            for name in ("header", "streams", "image_size", "splits", "shards")
            if name not in value
        ]
        if missing:
            raise UserError(f"{path} lacks {', '.join(missing)}; {remedy}")
        if isinstance(value["shards"], list):
            together(place_faults(value["shards"], path))
        with reading(path, remedy=remedy):
            known = {field.name: value[field.name] for field in fields(cls) if field.name in value}
            manifest = typed(cls, {**known, "entries": value["shards"]})
            together(manifest.contradictions())
        return manifest

    def contradictions(self) -> Iterator[str]:
        """The contradictions of the manifest: double streams, unknown streams or splits, small
        shards."""
        streams = {stream.folder: stream for stream in self.streams}
        if len(streams) < len(self.streams):
            yield "two streams share a folder"
        coded = {codes.folder: codes for codes in self.codes}
        if len(coded) < len(self.codes) or coded.keys() & streams.keys():
            yield "two codes share a folder"
        for codes in self.codes:
            if codes.stream not in streams or codes.d_sae < 1:
                yield f"the codes {codes.folder} must have a stream of the collection and latents"
        if self.image_size is not None and min(self.image_size) < 1:
            yield f"image_size={self.image_size} must be (height, width), both at least 1"
        samples_of: Counter[tuple[str, str]] = Counter()
        for shard in self.entries:
            samples_of[shard.split, shard.stream] += shard.samples
        for (split, stream), samples in samples_of.items():
            if split in self.splits and samples != self.splits[split].get("images"):
                yield (
                    f"split {split} has {self.splits[split].get('images')} images, its shards of "
                    f"{stream} hold {samples}"
                )
        for split, counts in self.splits.items():
            if counts.keys() != {"images", "rejected"} or min(counts.values()) < 0:
                yield f"split {split} must have counts of images and rejected, has {dict(counts)}"
        for shard in self.entries:
            if shard.split not in self.splits:
                yield str(unknown(f"split of shard {shard.path}", shard.split, self.splits))
            elif (shard.vectors is not None) != (self.ragged and shard.stream != IMAGES):
                yield (
                    f"shard {shard.path} must count its vectors exactly if samples differ in "
                    "length (ragged)"
                )
            elif (stream := streams.get(shard.stream)) is not None:
                vectors = shard.units * self.positions_of_unit(stream, shard.split)
                if stream.block == ATTENTION:
                    vectors = 0  # its samples may keep few columns, or none
                if shard.bytes < (least := vectors * stream.d_in * self.numbers.bytes):
                    yield f"shard {shard.path} has {shard.bytes} bytes; its updates need {least}"
            elif shard.stream != IMAGES and shard.stream not in coded:
                yield str(unknown(f"stream of shard {shard.path}", shard.stream, streams))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, as `load` reads it, without `subsampling`, `ragged` and `dtype` at their
        defaults."""
        value = {
            "schema_version": self.schema_version,
            "header": dict(self.header),
            "streams": [asdict(stream) for stream in self.streams],
            "image_size": self.image_size,
            "splits": {split: dict(counts) for split, counts in self.splits.items()},
            "shards": [shard.to_json() for shard in self.entries],
        }
        if self.subsampling is not None:
            value["subsampling"] = self.subsampling.to_json()
        if self.ragged:
            value["ragged"] = True
        if self.dtype != DEFAULT:
            value["dtype"] = self.dtype
        if self.codes:
            value["codes"] = [asdict(codes) for codes in self.codes]
        return value

    @property
    def numbers(self) -> StoredNumbers:
        """How the numbers of updates are stored and read."""
        return stored_numbers(self.dtype)

    def stream(self, block: str, t: float, conditioning: str) -> Stream:
        """The stream at these coordinates. Only two decimals of t count, as in the folder's name.

        Raises:
            UserError: there is no such stream. The message lists the streams.
        """
        folder = stream_folder(block, t, conditioning)
        for stream in self.streams:
            if stream.folder == folder:
                return stream
        raise unknown("stream", folder, [stream.folder for stream in self.streams])

    def codes_of(self, stream: Stream, tag: str, *, sha256: str) -> CodeStream:
        """The codes of a stream by the autoencoder of this tag and these weights.

        Raises:
            UserError: there are none, or they belong to other weights.
        """
        coded = {codes.tag: codes for codes in self.codes if codes.stream == stream.folder}
        if tag not in coded:
            raise unknown(f"autoencoder with stored codes of {stream.folder}:", tag, coded)
        codes = coded[tag]
        if codes.sha256 != sha256:
            raise UserError(
                f"the codes {codes.folder} belong to another autoencoder: their SHA-256 is"
                f" {codes.sha256[:16]}..., and that of this one {sha256[:16]}...; put back the"
                " autoencoder that they were made with, or remove the directory of the codes and"
                " run `diffusae collect`"
            )
        return codes

    def shards(self, stream: str, split: str) -> tuple[Shard, ...]:
        """The shards of a stream or of codes (by their folder), or of `images`, in a split, in the
        order of their groups.

        Raises:
            UserError: the stream or split is unknown, `images` are not kept, or codes are stored in
                the place of the stream's updates.
        """
        if tags := [codes.tag for codes in self.codes if codes.stream == stream]:
            raise UserError(
                f"the updates of {stream} in the split {split} are needed, and only their codes are"
                f" stored ({', '.join(tags)}); collect with activations.held_out=updates"
            )
        known = [s.folder for s in self.streams] + ([IMAGES] if self.image_size else [])
        known += [codes.folder for codes in self.codes]
        if stream not in known:
            raise unknown("stream", stream, known)
        if split not in self.splits:
            raise unknown("split", split, self.splits)
        return tuple(
            shard for shard in self.entries if shard.stream == stream and shard.split == split
        )

    def vectors(self, stream: Stream, split: str) -> int:
        """The number of update vectors of a stream in a split."""
        units = sum(shard.units for shard in self.shards(stream.folder, split))
        return units * self.positions_of_unit(stream, split)

    def positions_of_unit(self, stream: Stream, split: str) -> int:
        """Vectors of one unit of `Shard.units`."""
        return 1 if self.ragged else self.positions(stream, split)

    def positions(self, stream: Stream, split: str) -> int:
        """The update vectors of one image of a split (in a ragged collection: the most
        possible)."""
        if self.subsampling is None:
            return stream.positions
        return self.subsampling.kept(split, stream.positions)
