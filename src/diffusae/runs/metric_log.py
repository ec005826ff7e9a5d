"""Metrics as lines of JSON: the record of a run, whatever becomes of the process or of W&B."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from diffusae.parsing import json_value, of_type, reading

logger = logging.getLogger(__name__)


class MetricLog:
    """Appends rows to a JSONL file and flushes each, so that a kill costs at most the row at hand.

    A number that is not finite becomes null, and `nonfinite` names it. A last line that a kill has
    cut is removed when the log is opened again.

    Args:
        path: the file; its directory is made where it is missing.
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
            logger.warning(
                "%s ends in a cut line of %d bytes; it is removed", self.path, len(content) - whole
            )
            self._file.truncate(whole)

    def log(self, row: Mapping[str, Any]) -> None:
        """Append one row: plain values, numpy scalars and tensors of one element."""
        plain = {name: plain_value(value) for name, value in row.items()}
        bad = [
            name
            for name, value in plain.items()
            if isinstance(value, float) and not math.isfinite(value)
        ]
        if bad:
            plain.update(dict.fromkeys(bad))
            plain["nonfinite"] = bad
        self._file.write(json.dumps(plain, allow_nan=False).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """All whole rows of a metric log; a cut last line is left out. A missing file has none.

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
        with reading(
            path, remedy=f"remove line {number}, or the file: training goes on without it"
        ):
            rows.append(of_type(json_value(line), dict, f"line {number}"))
    return rows


def plain_value(value: Any) -> Any:
    """A numpy scalar or a tensor of one element as a Python number; anything else as it is."""
    return value.item() if hasattr(value, "item") else value
