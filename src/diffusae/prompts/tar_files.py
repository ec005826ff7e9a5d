"""Captions in WebDataset tars."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from diffusae.contents import json_of, open_contents
from diffusae.errors import UserError
from diffusae.prompts.encodings import UTF_8, check_encoding
from diffusae.prompts.rows import Reading, Row, of_object
from diffusae.tar_samples import Sample, TarFault, TarSamples

log = logging.getLogger(__name__)


def tar_rows(path: Path, how: Reading) -> Iterator[Row]:
    """One caption per sample. The column is a member's extension (`txt`), or `json.NAME`.

    The members of a sample are adjacent and share a key, as WebDataset requires. Pictures are not
    read.
    """
    member = how.column.partition(".")[0]
    if how.column == "json":
        raise UserError(f"{path}: prompts.column=json names no field; set prompts.column=json.NAME")
    with open_contents(path) as file:
        samples = TarSamples(file, {member, "json"} if how.fields else {member})
        key = None
        try:
            for sample in samples:
                key = sample.key
                yield _row(sample, how)
        except TarFault as fault:
            if key is None:
                raise UserError(f"{path} is not readable as a tar of samples: {fault}") from fault
            yield Row(_where(key), "", str(fault), ends=True)
    if samples.passed_over_count:
        log.info(
            "members of %s that belong to no sample: %d, such as %s; they are skipped",
            path, samples.passed_over_count, ", ".join(map(repr, samples.passed_over)),
        )  # fmt: skip


def read_tar_to_end(path: Path) -> None:
    """Check all headers of a tar up to its end mark; `UserError` if it is cut or damaged."""
    with open_contents(path) as file:
        try:
            for _ in TarSamples(file, ()):
                pass
        except TarFault as fault:
            raise UserError(f"{path}: {fault}") from fault


def _row(sample: Sample, how: Reading) -> Row:
    where = _where(sample.key)
    member, _, field = how.column.partition(".")
    if member not in sample.data:
        return Row(
            where,
            "",
            f"no .{member} member, {sample.described}; set prompts.column, or mend the tar",
        )
    try:
        meta = json_of(_text(sample, "json")) if "json" in sample.data else {}
        if field:
            return of_object(where, meta, field, how.fields)
        known = meta if isinstance(meta, dict) else {}
        fields = {name: known[name] for name in how.fields if name in known}
        name = f"the member {sample.members[member].name!r}"
        check_encoding(name, sample.data[member], how.encoding)
        return Row(where, _text(sample, member, how.encoding), "", fields)
    except UserError as error:
        return Row(where, "", str(error))
    except UnicodeDecodeError as error:
        what = f"its .{member} is not {error.encoding.upper()}"
        return Row(where, "", f"{what}; write it so, or set prompts.encoding")
    except ValueError as error:
        return Row(where, "", f"its .json is not JSON ({error}); mend the tar")


def _text(sample: Sample, extension: str, encoding: str = UTF_8) -> str:
    return sample.data[extension].decode("utf-8-sig" if encoding == UTF_8 else encoding)


def _where(key: str) -> str:
    return f"sample {key if key.isprintable() else ascii(key)}"
