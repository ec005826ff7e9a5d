"""Captions from files of any known format, checked and dealt out to the splits."""

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

MOST_TOLD = 20
"""Bad lines that a message names; it counts the others."""

Caption = tuple[str, str, str]  # split, text, its place

Split = Literal["order", "hash"]
BadLines = Literal["refuse", "skip"]


class FilePrompts:
    """The captions of one file, or of all files of a folder or of a pattern such as
    `captions-*.parquet`, in their names' order.

    Files are read once and as a stream, and no further than the counts need: lines after the last
    caption that is taken are neither read nor checked, and nor are further files. The file of that
    caption is checked to its end where it can tell whether it is whole: a tar by its headers, a
    compressed file by its checksum.

    Args:
        path: the file, folder or pattern.
        counts: split name to the number of pictures; with split="hash" they are upper bounds, and
            None is no bound.
        split: "order": the first captions are the first split's, as many as its count, and so on.
            "hash": a caption's split follows from its text (`HashSplit`).
        shares, split_seed: of the hash split, see there; unused with split="order".
        format: text, csv, jsonl, parquet or webdataset; None: told by the suffix.
        column: where captions stand; None: `caption`, in a tar the member `txt`.
        delimiter: of CSV, one character, or "tab"; None: a comma, in .tsv a tab.
        encoding: of text, CSV, JSON lines and tars, one of `ENCODINGS`.
        bad_lines: "refuse" or "skip" what is empty, not UTF-8, not JSON and so on; both name it. A
            damaged file is refused either way.
        selection: further arguments of `Selection`.

    Raises:
        UserError: no such file, bad settings; from `texts` also bad lines, named by number, and too
            few captions.
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
            faults.append(f"prompts.column={column!r} must be a name, or null for the usual one")
        together(faults)
        self.delimiter = None if delimiter is None else delimiter_of(delimiter)
        self.encoding = encoding_of(encoding)
        self.paths = caption_paths(path, format)
        for each in self.paths:
            format_of(each, format)
        self.counts = check_counts(counts, open_ended=split == "hash")
        self.by_hash = split == "hash"
        if self.by_hash:
            dealt = HashSplit(shares or {}, seed=split_seed).shares
            if lacking := self.counts.keys() - dealt.keys():
                raise UserError(
                    f"prompts.counts ask for {', '.join(sorted(lacking))}, which prompts.shares"
                    " give nothing; give a share, or set the count to 0"
                )
        self.shares, self.split_seed = shares or {}, split_seed
        self.format, self.column, self.bad_lines = format, column, bad_lines
        Selection(**selection)  # refuses bad settings now
        self.selection = selection

    def texts(self) -> list[Caption]:
        """(split, caption, place in its file), split by split. A study's stages ask often: an
        unchanged file is read once."""
        return list(
            _read(
                tuple(
                    (path, (stat := path.stat()).st_mtime_ns, stat.st_size) for path in self.paths
                ),
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
        )


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
    """Read and check; every argument is hashable, and files count with their time and size, so that
    it is remembered."""
    chosen = Selection(**dict(selection))
    deal = (
        _InOrder(dict(counts))
        if shares is None
        else _ByHash(dict(counts), HashSplit(dict(shares), seed=split_seed))
    )
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
            deal.add(text, f"{path.name}, {row.where}")
            if deal.full:
                check_whole(path, format=format)
                break
    bad.tell()
    source = str(paths[0]) if len(paths) == 1 else f"the {len(paths)} files"
    if read > bad.count and chosen.never_seen:
        raise UserError(
            f"no row of {source} has the column {', '.join(sorted(chosen.never_seen))}; mend"
            " prompts.where"
        )
    reasons = ", ".join(f"{count} {reason}" for reason, count in chosen.left_out.most_common())
    if reasons:
        source += f" (left out: {reasons})"
    captions = deal.captions()
    log.info("captions taken: %d, of the first %d in %s", len(captions), read, source)
    deal.require(source)
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
    """The first captions are the first split's."""

    def __init__(self, counts: Mapping[str, Any]) -> None:
        self.counts = counts
        self.needed = sum(counts.values())
        self._found: list[tuple[str, str]] = []

    @property
    def full(self) -> bool:
        return len(self._found) == self.needed

    def add(self, text: str, where: str) -> None:
        self._found.append((text, where))

    def captions(self) -> tuple[Caption, ...]:
        splits = [split for split, count in self.counts.items() for _ in range(count)]
        return tuple((split, *found) for split, found in zip(splits, self._found, strict=False))

    def require(self, source: str) -> None:
        if not self.full:
            raise UserError(
                f"prompts.counts ask for {self.needed} caption{'s' * (self.needed != 1)}, {source}"
                f" has {len(self._found)}; lower the counts, or give more captions"
            )


class _ByHash:
    """Every caption goes where its hash says, while there is room."""

    def __init__(self, counts: Mapping[str, int | None], split_of: HashSplit) -> None:
        self.counts, self.split_of = counts, split_of
        self._found: dict[str, list[tuple[str, str]]] = {split: [] for split in counts}
        self._open = set(counts)

    @property
    def full(self) -> bool:
        return not self._open

    def add(self, text: str, where: str) -> None:
        split = self.split_of(text)
        if split in self._open:
            self._found[split].append((text, where))
            if len(self._found[split]) == self.counts[split]:
                self._open.remove(split)

    def captions(self) -> tuple[Caption, ...]:
        return tuple((split, *found) for split, all_of in self._found.items() for found in all_of)

    def require(self, source: str) -> None:
        empty = [split for split, found in self._found.items() if not found]
        if empty:
            raise UserError(
                f"no caption of {source} falls into {', '.join(empty)}; give more captions, raise"
                " the share, or set the count to 0"
            )
        for split in sorted(self._open):
            if self.counts[split] is not None:
                log.warning(
                    "split %s gets %d caption%s of %s, fewer than prompts.counts.%s=%d",
                    split,
                    len(self._found[split]),
                    "s" * (len(self._found[split]) != 1),
                    source,
                    split,
                    self.counts[split],
                )


class _BadLines:
    """Gathers bad lines: one error that names them, or one warning."""

    def __init__(self, policy: BadLines) -> None:
        self.policy = policy
        self.count, self.first = 0, list[str]()

    def add(self, fault: str) -> None:
        self.count += 1
        if len(self.first) < MOST_TOLD:
            self.first.append(fault)

    def tell(self) -> None:
        if not self.count:
            return
        rest = self.count - len(self.first)
        told = "\n  - ".join(["", *self.first, *([f"and {rest} more"] if rest else [])])
        remedy = "Leave bad lines out by prompts.bad_lines=skip"
        if any("not UTF-8" in fault for fault in self.first):
            remedy += (
                "; where a file has another encoding than UTF-8, name it by prompts.encoding, such"
                " as latin-1"
            )
        if self.policy == "skip":
            log.warning(
                "%s left out:%s",
                "1 bad line is" if self.count == 1 else f"{self.count} bad lines are",
                told,
            )
        elif self.count == 1:
            raise UserError(f"{self.first[0]}\n{remedy}")
        else:
            raise UserError(f"{self.count} bad lines:{told}\n{remedy}")
