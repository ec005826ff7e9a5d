"""The encodings of caption files. A file whose first bytes contradict the configuration is
refused."""

from __future__ import annotations

import codecs
from pathlib import Path

from diffusae.errors import UserError, unknown

UTF_8 = "utf-8"
ENCODINGS = (
    UTF_8, "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "latin-1",
    "cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "iso8859-2", "iso8859-15",
    "koi8-r", "mac-roman", "cp437", "cp850", "big5", "euc-jp", "euc-kr", "gb18030", "shift_jis",
)  # fmt: skip
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WIDE = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")

MARKED = "diffusae.marked"
"""An error handler of decoding that replaces undecodable bytes by half of a surrogate pair."""
codecs.register_error(MARKED, lambda error: ("\udcff", error.end))  # type: ignore[attr-defined]


def encoding_of(name: object) -> str:
    """The encoding of this name, as written in `ENCODINGS`; `UserError` if it is none of them."""
    try:
        wanted = codecs.lookup(name.removesuffix("-sig")).name if isinstance(name, str) else ""
    except (LookupError, ValueError):
        wanted = ""
    for known in ENCODINGS:
        if wanted == codecs.lookup(known).name:
            return known
    raise unknown("prompts.encoding", name, ENCODINGS)


def check_encoding(path: Path | str, head: bytes, encoding: str) -> None:
    """Compare the first bytes of a file, or of a tar's member, with the configured encoding.

    Raises:
        UserError: they are of another encoding, which the message names.
    """
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if marked is not None:
        what = f"begins with the byte order mark of {marked}"
        _require(path, encoding.startswith(marked), what, marked)
    elif b"\0" in head and encoding[:6] not in ("utf-16", "utf-32") and (guess := _guessed(head)):
        _require(path, False, f"looks like {guess} without a byte order mark", guess)
    elif encoding == UTF_8:
        return
    elif head and encoding in ("utf-16", "utf-32"):
        raise UserError(
            f"{path} has no byte order mark of {encoding}; set prompts.encoding={encoding}-le (the "
            f"usual one) or {encoding}-be, or leave prompts.encoding out if it is {UTF_8}"
        )
    elif encoding in _WIDE:
        _require(path, b"\0" in head or not _is_utf8(head), f"is {UTF_8}, not {encoding}", UTF_8)
    else:
        _require(path, head.isascii() or not _is_utf8(head), f"is {UTF_8}, not {encoding}", UTF_8)


def not_decoded(text: str, encoding: str) -> str:
    """The fault of text that has marks of undecodable bytes; "" if it has none."""
    if encoding != UTF_8:
        fault = f"not {encoding}; save the file as UTF-8, or mend prompts.encoding"
        return fault if "\udcff" in text else ""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        place = len(text[: error.start].encode("utf-8", "surrogateescape"))
        return f"not UTF-8 (byte {place + 1}); save the file as UTF-8"
    return ""


def _require(path: Path | str, holds: bool, what: str, encoding: str) -> None:
    if not holds:
        raise UserError(f"{path} {what}; set prompts.encoding={encoding}")


def _guessed(head: bytes) -> str | None:
    """The first encoding of 2 or 4 bytes per character in which the first bytes are text.

    None for UTF-8 with a few stray NUL bytes.
    """
    if _is_utf8(head) and head.count(0) < len(head) / 5:
        return None
    for name in _WIDE:
        try:
            text = codecs.getincrementaldecoder(name)().decode(head)
        except UnicodeDecodeError:
            continue
        if text and all(c.isprintable() or c in "\r\n\t" for c in text):
            return name
    return None


def _is_utf8(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True
