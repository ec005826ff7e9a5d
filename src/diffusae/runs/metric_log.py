"""Metrics as lines of JSON: the record of a run, even if the process or W&B fails."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from diffusae.parsing import json_value, of_type, reading

logger = logging.getLogger(__name__)


class MetricLog:
    """Appends rows to a JSONL file. Rows are flushed, so that a kill loses at most the current one.

    A non-finite number becomes null and is listed in `nonfinite`. A cut last line is removed when
    the log is opened again.

    Args:
        path: the file. A missing directory is made.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "a+b")  # noqa: SIM115 - closed by close()
        self._drop_cut_line()

    def _drop_cut_line(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            cut = len(content) - whole
            logger.warning("%s ends in a cut line of %d bytes; it is removed", self.path, cut)
            self._file.truncate(whole)

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one row: plain values, numpy scalars and tensors of one element."""
        plain = {name: plain_value(value) for name, value in row.items()}
        floats = {name: value for name, value in plain.items() if isinstance(value, float)}
        bad = [name for name, value in floats.items() if not math.isfinite(value)]
        if bad:
            plain.update(dict.fromkeys(bad))
            plain["nonfinite"] = bad
        self._file.write(json.dumps(plain, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file. May be called twice."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """All whole rows of a metric log, without a cut last line. A missing file has none.

    Raises:
        UserError: a line is damaged.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return []
    whole = content[: content.rfind(b"\n") + 1]
    rows = []
    for number, line in enumerate(whole.splitlines(), 1):
        remedy = f"remove line {number}, or the file: training continues without it"
        with reading(path, remedy=remedy):
            rows.append(of_type(json_value(line), dict, f"line {number}"))
    return rows


def plain_value(value: Any) -> Any:
    """A numpy scalar or a tensor of one element as a Python number. Other values are not
    changed."""
    return value.item() if hasattr(value, "item") else value
