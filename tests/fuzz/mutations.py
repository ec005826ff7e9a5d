"""Strategies that damage valid files: blindly by their bytes, or at the fields of their format.

`mutated` suits every file. The others know a format and keep its outermost check valid (a tar
header's checksum, the length of a header), so that the damage reaches the code behind that check.
"""

import copy
import json
import struct
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

DEEP, CUT_DEEP = "\0deep", "\0cut deep"
"""Strings in place of very deep JSON, which `json.dumps` itself cannot write."""
_DEPTH = 100_000
_BLOCK = 512

Draw = Callable[[st.SearchStrategy[Any]], Any]

EXTREME_BYTES = st.sampled_from([
    struct.pack(form, number)
    for form, number in (
        ("<Q", 2**64 - 1), ("<Q", 2**63 - 1), ("<q", -1), ("<Q", 2**40), ("<I", 2**32 - 1),
        ("<i", -(2**31)), (">Q", 2**62), (">I", 2**31), ("<H", 2**16 - 1),
        ("<d", float("nan")), ("<d", float("inf")), ("<Q", 0),
    )
])  # fmt: skip

ODD_VALUES = st.sampled_from([
    None, True, False, 0, 1, -1, 2**31, -(2**31), 2**63, -(2**63), 2**64, 10**400, 40_000_000,
    10**12, 0.5, -0.0, 1e308, float("nan"), float("inf"), float("-inf"), "", "0", "../../x",
    "/etc/passwd", "a\0b", "\ud800", "x" * 100_000, "<script>", [], {}, [[]], [{}], {"": {}},
    [None], [0, 0], [-1, 10**12], ["a", 1, None], {"a": [1]}, DEEP, CUT_DEEP,
])  # fmt: skip
"""JSON values that a reader may not expect: other types, extremes, paths, deep and long ones."""


@st.composite
def mutated(draw: Draw, data: bytes, most: int = 3) -> bytes:
    """`data` with one to `most` damages: bits, cuts, slices removed, doubled, zeroed, moved."""
    damaged = bytearray(data)
    for _ in range(draw(st.integers(1, most))):
        start = draw(st.integers(0, len(damaged)))
        length = draw(st.one_of(st.integers(0, 16), st.integers(0, max(1, len(damaged)))))
        piece = bytes(damaged[start : start + length])
        match draw(st.integers(0, 7)):
            case 0 if damaged:
                damaged[start % len(damaged)] ^= 1 << draw(st.integers(0, 7))
            case 1:
                del damaged[start:]
            case 2:
                del damaged[start : start + length]
            case 3:
                damaged[start:start] = piece
            case 4:
                damaged[start : start + length] = bytes(len(piece))
            case 5:
                extreme = draw(EXTREME_BYTES)
                damaged[start : start + len(extreme)] = extreme
            case 6:
                del damaged[start : start + length]
                place = draw(st.integers(0, len(damaged)))
                damaged[place:place] = piece
            case 7:
                inserted = draw(st.binary(max_size=32))
                damaged[start : start + draw(st.integers(0, len(inserted)))] = inserted
    return bytes(damaged)


@st.composite
def mutated_value(draw: Draw, value: Any, most: int = 2) -> Any:
    """A JSON value with one to `most` inner values replaced, removed, renamed, doubled or added."""
    damaged = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, most))):
        places = list(_places(damaged))
        if not places or draw(st.integers(0, 40)) == 0:
            return copy.deepcopy(draw(ODD_VALUES))
        holder, key = draw(st.sampled_from(places))
        match draw(st.integers(0, 5)):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                name = draw(st.sampled_from(["odd", "", "../../x", "\ud800", str(key) + " "]))
                holder[name] = holder.pop(key)
            case 2 if isinstance(holder, list):
                holder.insert(key, holder[key])
            case 3 if type(holder[key]) in (int, float) and abs(holder[key]) < 10**300:
                holder[key] += draw(st.sampled_from([1, -1, 0.5, 10**6, -(10**6), 10**30]))
            case _:
                # A copy: the next change must not change the constant.
                holder[key] = copy.deepcopy(draw(ODD_VALUES))
    return damaged


@st.composite
def mutated_json(draw: Draw, value: Any) -> bytes:
    """The text of a mutated value, also with NaN, a double key, deep nesting, a BOM, UTF-16."""
    damaged = draw(mutated_value(value))
    text = _text(damaged)
    match draw(st.integers(0, 15)):
        case 0 if isinstance(damaged, dict) and damaged:
            key = draw(st.sampled_from(sorted(damaged)))
            return f"{text[:-1]}, {json.dumps(key)}: {_text(draw(ODD_VALUES))}}}".encode()
        case 1:
            return text.encode("utf-8-sig")
        case 2:
            return text.encode("utf-16")
        case 3:
            return draw(mutated(text.encode()))
    return text.encode()


@st.composite
def mutated_tar(draw: Draw, data: bytes) -> bytes:
    """A tar whose members or header fields (under valid checksums) are damaged."""
    starts = tar_headers(data)
    if not starts:
        return draw(mutated(data))
    damaged = bytearray(data)
    if draw(st.integers(0, 3)) == 0:
        pieces = [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]
        pieces = draw(st.lists(st.sampled_from(pieces), max_size=len(pieces) + 2))
        damaged = bytearray(b"".join(pieces) + bytes(draw(st.sampled_from([0, 512, 1024, 10240]))))
        starts = tar_headers(bytes(damaged)) or [0]
    for _ in range(draw(st.integers(1, 2))):
        start = draw(st.sampled_from(starts))
        offset, length, values = draw(st.sampled_from(_TAR_FIELDS))
        header = damaged[start : start + _BLOCK].ljust(_BLOCK, b"\0")
        value = draw(st.sampled_from(values))[:length].ljust(length, b"\0")
        header[offset : offset + length] = value
        damaged[start : start + _BLOCK] = with_checksum(bytes(header))
    return bytes(damaged)


def tar_headers(data: bytes) -> list[int]:
    """The places of the headers of a valid tar of plain members."""
    starts, at = [], 0
    while at + _BLOCK <= len(data) and data[at : at + 1] != b"\0":
        starts.append(at)
        try:
            size = max(0, int(data[at + 124 : at + 136].rstrip(b" \0") or b"0", 8))
        except ValueError:
            break
        at += _BLOCK + -(-size // _BLOCK) * _BLOCK
    return starts


def with_checksum(header: bytes) -> bytes:
    """A tar header with the checksum of its other bytes."""
    blank = header[:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(blank) + header[156:]


_SIZES = [
    b"-0000000512", b"-0000001024\0", b"77777777777\0", b"00000000000\0", b"00000001777\0",
    b"           \0", b"0x200\0", b"1_0\0", b" 12\0", b"\xff" * 12, b"\xff" * 10 + b"\xfe\x00",
    b"\x80" + bytes(10) + b"\x80", b"\x80" + b"\xff" * 11, b"\xb2\xb3\0",
]  # fmt: skip
"""Sizes of a member: negative as text and to base 256, far beyond the file, none, no number."""
_NAMES = [
    b"", b"../../x.npy", b"/abs.npy", b"x" * 100, b"a.pyd", b"\xff\xfe.npy", b".npy", b"a.b.c.npy",
    b"a.json",
]  # fmt: skip
_TYPES = [bytes([character]) for character in b"0\x0012357xgLKSV\xff"]
_TAR_FIELDS = [
    (0, 100, _NAMES),
    (124, 12, _SIZES),
    (124, 12, _SIZES),
    (156, 1, _TYPES),
    (157, 100, [b"", b"../../x", b"x" * 100]),
    (257, 8, [b"", b"ustar\x0000", b"ustar  \0", b"\xff" * 8]),
    (345, 155, [b"", b"../..", b"\xff" * 155]),
    (136, 12, [b"-0000000001\0", b"\xff" * 12, b"x"]),
]
"""(offset, length, values) of header fields: name, size, type, link, magic, prefix, time."""


@st.composite
def mutated_npy(draw: Draw, data: bytes) -> bytes:
    """An .npy file with another type, order, shape, length or version in its header, or no dict."""
    length = int.from_bytes(data[8:10], "little")
    body, version = data[10 + length :], data[6:8]
    header = data[10 : 10 + length].decode("latin1")
    match draw(st.integers(0, 4)):
        case 0:
            version = draw(st.sampled_from([b"\x01\x01", b"\x02\x00", b"\x03\x00", b"\xff\xff"]))
        case 1:
            length = draw(st.sampled_from([0, 1, length - 1, length + 1, 65535]))
            return data[:8] + struct.pack("<H", max(0, min(length, 65535))) + data[10:]
        case 2:
            return draw(mutated(data))
        case _:
            fields = ("'descr': ", _DESCRS), ("'fortran_order': ", _ORDERS), ("'shape': ", _SHAPES)
            written = [f"{name}{draw(st.sampled_from(values))}" for name, values in fields]
            kept = draw(st.lists(st.sampled_from(written), min_size=2, max_size=4))
            header = draw(st.sampled_from(["{%s}\n", "{%s", "(%s)", "{%s, }\n"])) % ", ".join(kept)
    encoded = header.encode("latin1", "replace")[:65535]
    return data[:6] + version + struct.pack("<H", len(encoded)) + encoded + body


_DESCRS = [
    "'<f2'", "'>f2'", "'<f4'", "'|O'", "'<U9999999'", "'|V0'", "'<M8'", "''", "'nonsense'",
    "[('a', '<f2')]", "[]", "None", "5", "'|S0'", "'<u2'", "b'<f2'", "('<f2', (2,))",
    "('<f2', (99999, 99999))",
]  # fmt: skip
_ORDERS = ["False", "True", "None", "0", "'x'", "__import__('os')"]
_SHAPES = [
    "(2, 3)", "(6, 4)", "()", "(-1,)", "(0, 4)", "(10**3,)", "(99999999999, 99999999999)",
    "(6, 4, 1)", "(1,) * 99", "[6, 4]", "(6.0, 4)", "('6', 4)", "(True, 4)", "None", "((((6",
    "(" * 500 + ")" * 500, "(-6, -4)", "(9223372036854775807, 4)", "(2, -9999999999)",
]  # fmt: skip


@st.composite
def mutated_safetensors(draw: Draw, data: bytes) -> bytes:
    """A safetensors file with a mutated header of the right length, or other damage."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    match draw(st.integers(0, 3)):
        case 0:
            return draw(EXTREME_BYTES).ljust(8, b"\0") + data[8:]
        case 1:
            return draw(mutated(data))
    text = draw(mutated_json(header))
    return struct.pack("<Q", len(text)) + text + body


def _places(value: Any) -> Any:
    """(holder, key or index) of every inner value."""
    items: Any = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield value, key
        yield from _places(inner)


def _text(value: Any) -> str:
    text = json.dumps(value)
    text = text.replace(json.dumps(DEEP), "[" * _DEPTH + "]" * _DEPTH)
    return text.replace(json.dumps(CUT_DEEP), '{"a":' * _DEPTH)
