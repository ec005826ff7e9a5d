"""Reading an offline W&B run back from its file, without W&B's own reader: protobuf messages,
framed as a LevelDB log.
"""

import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]  # made at import


def records_of(directory: Path, run_id: str = "*") -> list[Record]:
    """The records of the one offline run of that id below `directory`."""
    (path,) = (directory / "wandb").glob(f"offline-run-*/run-{run_id}.wandb")
    data, records, message = path.read_bytes(), [], b""
    block, header = (
        32768,
        struct.Struct("<IHB"),
    )  # checksum, length, kind: 1 whole, 2 first, 3 middle, 4 last
    at = 7  # the file's own magic
    while at + header.size <= len(data):
        left = block - at % block
        if left < header.size:
            at += left
            continue
        _, length, kind = header.unpack_from(data, at)
        at += header.size + length
        message += data[at - length : at]
        if kind in (1, 4):
            records.append(Record.FromString(message))
            message = b""
    return records


def values_of(items: Iterable[Any]) -> dict[str, Any]:
    """Keys, dotted where nested, and values of W&B's key-value messages."""
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


def history_of(records: list[Record], metric: str) -> dict[int, float]:
    """step -> value of one metric."""
    rows = [values_of(record.history.item) for record in records if record.HasField("history")]
    return {row["_step"]: row[metric] for row in rows if metric in row}
