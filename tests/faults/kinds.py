"""The kinds of files in a study; a kind is the pattern of a name."""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from faults.study import OUTPUTS

_PATTERNS = (
    (r"^copy/activations/", "COPY/"),  # of a collection elsewhere
    (r"^(tiny|copy)/", ""),  # the experiments' names
    (r"\b(down|mid|up)-(t\d\.\d\d-)?(un)?cond(-\w+)?", "CELL"),
    (r"\b(down|mid|up)/t\d\.\d\d/(un)?cond", "STREAM"),
    (r"\bt\d\.\d\d\b", "T"),
    (r"\.grid-[0-9a-f]+", ".grid-*"),
    (r"\d{6,}", "*"),
    (r"^evaluation/\w+/CELL/(run\.json|results\.json|\.lock)$", r"evaluation/METRIC/CELL/\1"),
    (r"^logs/\w+\.log$", "logs/STAGE.log"),
    (r"\.\d+\.partial", ".PID.partial"),
)


def kind_of(path: str) -> str:
    """The kind of a file by its path below the outputs, such as `sae/CELL/cfg.json`."""
    for pattern, name in _PATTERNS:
        path = re.sub(pattern, name, path)
    return path


def files_of(study: Path) -> set[str]:
    """The files of a study, as paths below its outputs."""
    outputs = study / OUTPUTS
    return {str(path.relative_to(outputs)) for path in outputs.rglob("*") if path.is_file()}


def kinds_among(files: set[str]) -> Mapping[str, list[str]]:
    """The files by kind."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for path in sorted(files):
        kinds[kind_of(path)].append(path)
    return kinds
