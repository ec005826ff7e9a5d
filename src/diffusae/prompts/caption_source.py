"""Captions from files of any known format, checked and distributed to the splits."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from diffusae.errors import UserError, together, unknown
from diffusae.prompts.caption_files import check_whole, format_of, read_rows
from diffusae.prompts.caption_paths import caption_paths
from diffusae.prompts.csv_files import delimiter_of
from diffusae.prompts.encodings import UTF_8, encoding_of
from diffusae.prompts.hash_split import HashSplit
from diffusae.prompts.prompt_set import check_counts
from diffusae.prompts.rows import Row
from diffusae.prompts.selection import Selection

log = logging.getLogger(__name__)

MOST_NAMED = 20
"""Bad lines that a message lists. Others are only counted."""

Caption = tuple[str, str, str]  # split, text, its place

Split = Literal["order", "hash"]
BadLines = Literal["refuse", "skip"]


class FilePrompts:
    """The captions of one file, or of all files of a folder or a pattern, in the order of names.

    Files are read once, as a stream, up to the last needed caption. Lines after it and further
    files are neither read nor checked, except that its own file must not be cut: a tar is checked
    by its headers, a compressed file by its checksum.

    Args:
        path: the file, folder or pattern (such as `captions-*.parquet`).
        counts: {split: number of pictures}. With split="hash" these are limits; None: no limit.
        split: "order": the first split takes the first captions, and so on. "hash": a caption's
            split follows from its text (`HashSplit`).
        shares, split_seed: arguments of `HashSplit`.
        format: text, csv, jsonl, parquet or webdataset. None: by suffix.
        column: the column of captions. None: `caption`, in a tar the member `txt`.
        delimiter: delimiter of CSV: one character, or "tab". None: a comma, in .tsv a tab.
        encoding: encoding of text, CSV, JSON lines and tars, one of `ENCODINGS`.
        bad_lines: "refuse" or "skip" bad lines (empty, not UTF-8, not JSON, ...). Both list them. A
            damaged file is always refused.
        selection: further arguments of `Selection`.

    Raises:
        UserError: the file does not exist, or settings are invalid. `texts` also: bad lines (with
            numbers), or too few captions.
    """

    def __init__(
        self,
        path: str | Path | None,
        counts: Mapping[str, int | None],
        *,
        split: Split = "order",
        shares: Mapping[str, float] | None = None,
        split_seed: int = 0,
        format: str | None = None,
        column: str | None = None,
        delimiter: str | None = None,
        encoding: str = UTF_8,
        bad_lines: BadLines = "refuse",
        **selection: Any,
    ) -> None:
        faults: list[str] = []
        for name, value, known in (("split", split, Split), ("bad_lines", bad_lines, BadLines)):
            if value not in get_args(known):
                faults.append(str(unknown(f"prompts.{name}:", value, get_args(known))))
        if column is not None and (not isinstance(column, str) or not column):
            faults.append(f"prompts.column={column!r} must be a name, or null for the default")
        together(faults)
        self.delimiter = None if delimiter is None else delimiter_of(delimiter)
        self.encoding = encoding_of(encoding)
        self.paths = caption_paths(path, format)
        for file in self.paths:
            format_of(file, format)
        self.counts = check_counts(counts, open_ended=split == "hash")
        self.by_hash = split == "hash"
        if self.by_hash:
            given = HashSplit(shares or {}, seed=split_seed).shares
            if lacking := self.counts.keys() - given.keys():
                raise UserError(
                    f"prompts.counts ask for {', '.join(sorted(lacking))}, but prompts.shares give "
                    "no share; give one, or set the count to 0"
                )
        self.shares, self.split_seed = shares or {}, split_seed
        self.format, self.column, self.bad_lines = format, column, bad_lines
        Selection(**selection)  # refuses bad settings now
        self.selection = selection

    def texts(self) -> list[Caption]:
        """(split, caption, place in its file), by split. An unchanged file is read only once."""
        stats = [(path, path.stat()) for path in self.paths]
        captions = _read(
            tuple((path, stat.st_mtime_ns, stat.st_size) for path, stat in stats),
            tuple(self.counts.items()),
            shares=tuple(self.shares.items()) if self.by_hash else None,
            split_seed=self.split_seed,
            format=self.format,
            column=self.column,
            delimiter=self.delimiter,
            encoding=self.encoding,
            bad_lines=self.bad_lines,
            selection=tuple(
                (n, tuple(v) if n == "where" else v) for n, v in self.selection.items()
            ),
        )
        return list(captions)


@lru_cache(maxsize=4)
def _read(
    files: tuple[tuple[Path, int, int], ...],
    counts: tuple[tuple[str, int | None], ...],
    *,
    shares: tuple[tuple[str, float], ...] | None,
    split_seed: int,
    format: str | None,
    column: str | None,
    delimiter: str | None,
    encoding: str,
    bad_lines: BadLines,
    selection: tuple[tuple[str, Any], ...],
) -> tuple[Caption, ...]:
    """Read and check. The result is cached by the arguments, which include files' times and
    sizes."""
    chosen = Selection(**dict(selection))
    taken: _InOrder | _ByHash
    if shares is None:
        taken = _InOrder(dict(counts))
    else:
        taken = _ByHash(dict(counts), HashSplit(dict(shares), seed=split_seed))
    bad = _BadLines(bad_lines)
    read = 0
    paths = [path for path, *_ in files]
    how = {"format": format, "column": column, "delimiter": delimiter, "encoding": encoding}
    for path, row in _rows(paths, fields=chosen.fields, **how):
        read += 1
        text = row.text.strip()
        if row.ends:
            raise UserError(f"{path}, {row.where}: {row.fault}")
        if row.fault or not text:
            bad.add(f"{path}, {row.where}: {row.fault or 'empty; remove it'}")
        elif _wants(chosen, text, row, path):
            taken.add(text, f"{path.name}, {row.where}")
            if taken.full:
                check_whole(path, format=format)
                break
    bad.report()
    source = str(paths[0]) if len(paths) == 1 else f"the {len(paths)} files"
    if read > bad.count and chosen.never_seen:
        raise UserError(
            f"no row of {source} has the column {', '.join(sorted(chosen.never_seen))}; mend "
            "prompts.where"
        )
    reasons = ", ".join(f"{count} {reason}" for reason, count in chosen.left_out.most_common())
    if reasons:
        source += f" (left out: {reasons})"
    captions = taken.captions()
    log.info("captions taken: %d, of the first %d in %s", len(captions), read, source)
    taken.require(source)
    return captions


def _rows(paths: Sequence[Path], **how: Any) -> Iterator[tuple[Path, Row]]:
    for path in paths:
        for row in read_rows(path, **how):
            yield path, row


def _wants(chosen: Selection, text: str, row: Row, path: Path) -> bool:
    try:
        return chosen.wants(text, row.fields)
    except UserError as error:
        raise UserError(f"{path}, {row.where}: {error}") from error


class _InOrder:
    """The first split takes the first captions, and so on."""

    def __init__(self, counts: Mapping[str, Any]) -> None:
        self.counts = counts
        self.needed = sum(counts.values())
        self._taken: list[tuple[str, str]] = []

    @property
    def full(self) -> bool:
        return len(self._taken) == self.needed

    def add(self, text: str, where: str) -> None:
        self._taken.append((text, where))

    def captions(self) -> tuple[Caption, ...]:
        splits = [split for split, count in self.counts.items() for _ in range(count)]
        return tuple((split, *entry) for split, entry in zip(splits, self._taken, strict=False))

    def require(self, source: str) -> None:
        if not self.full:
            raise UserError(
                f"prompts.counts ask for {self.needed} caption{'s' * (self.needed != 1)}, {source} "
                f"has {len(self._taken)}; lower the counts, or give more captions"
            )


class _ByHash:
    """A caption goes to the split of its hash, unless that is full."""

    def __init__(self, counts: Mapping[str, int | None], split_of: HashSplit) -> None:
        self.counts, self.split_of = counts, split_of
        self._taken: dict[str, list[tuple[str, str]]] = {split: [] for split in counts}
        self._open = set(counts)

    @property
    def full(self) -> bool:
        return not self._open

    def add(self, text: str, where: str) -> None:
        split = self.split_of(text)
        if split in self._open:
            self._taken[split].append((text, where))
            if len(self._taken[split]) == self.counts[split]:
                self._open.remove(split)

    def captions(self) -> tuple[Caption, ...]:
        return tuple((split, *entry) for split, all_of in self._taken.items() for entry in all_of)

    def require(self, source: str) -> None:
        empty = [split for split, entries in self._taken.items() if not entries]
        if empty:
            raise UserError(
                f"no caption of {source} falls into {', '.join(empty)}; give more captions, raise "
                "the share, or set the count to 0"
            )
        for split in sorted(self._open):
            if self.counts[split] is not None:
                log.warning(
                    "split %s gets %d caption%s of %s, fewer than prompts.counts.%s=%d",
                    split,
                    len(self._taken[split]),
                    "s" * (len(self._taken[split]) != 1),
                    source,
                    split,
                    self.counts[split],
                )


class _BadLines:
    """Collects bad lines for one error or one warning."""

    def __init__(self, policy: BadLines) -> None:
        self.policy = policy
        self.count, self.first = 0, list[str]()

    def add(self, fault: str) -> None:
        self.count += 1
        if len(self.first) < MOST_NAMED:
            self.first.append(fault)

    def report(self) -> None:
        if not self.count:
            return
        rest = self.count - len(self.first)
        listed = "\n  - ".join(["", *self.first, *([f"and {rest} more"] if rest else [])])
        remedy = "Leave bad lines out by prompts.bad_lines=skip"
        if any("not UTF-8" in fault for fault in self.first):
            remedy += "; for another encoding than UTF-8, set prompts.encoding, such as latin-1"
        if self.policy == "skip":
            what = "1 bad line is" if self.count == 1 else f"{self.count} bad lines are"
            log.warning("%s left out:%s", what, listed)
        elif self.count == 1:
            raise UserError(f"{self.first[0]}\n{remedy}")
        else:
            raise UserError(f"{self.count} bad lines:{listed}\n{remedy}")
