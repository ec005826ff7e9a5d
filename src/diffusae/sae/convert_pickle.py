"""A program of its own, which `pickled.py` starts: a pickled checkpoint becomes safetensors.

    python convert_pickle.py CHECKPOINT RESULT MEMORY_BYTES

It is never imported, and imports nothing of diffusae. `torch.load(weights_only=True)` builds
tensors and plain values alone; a class or a function in the pickle ends it. The only objects that
are let through are settings of published trainings, as a stand-in that holds values and has no
code.

The result holds the tensors by their names in the checkpoint's `state_dict`, or in the checkpoint
itself. Its header holds `values`: the plain values beside the tensors, as JSON.
"""

import contextlib
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

MOST_VALUES, LONGEST_TEXT = 200, 500
TIED = 4
"""Tensors may share their numbers, so that together they are larger than the file."""


class StandIn:
    """Holds the attributes of the settings that Revelio pickles beside its weights."""


StandIn.__module__, StandIn.__qualname__ = "training.config", "SDSAERunnerConfig"


def main(checkpoint: Path, result: Path, memory_bytes: int) -> None:
    import torch
    from safetensors.torch import save_file

    _limit_memory(memory_bytes)
    with torch.serialization.safe_globals([StandIn]):
        loaded = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if not isinstance(loaded, Mapping):
        raise ValueError(f"it holds a {type(loaded).__name__}, not tensors by their names")
    inner = loaded.get("state_dict")
    named = inner if isinstance(inner, Mapping) else loaded
    tensors = {str(name): value for name, value in named.items() if isinstance(value, torch.Tensor)}
    if any(tensor.layout is not torch.strided or tensor.is_meta for tensor in tensors.values()):
        raise ValueError("it holds tensors that are sparse or without numbers")
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if size > TIED * checkpoint.stat().st_size:
        raise ValueError(f"its tensors take {size} bytes, more than the file can hold")
    values = json.dumps(_plain(loaded), allow_nan=False)
    # A copy of each: safetensors stores no tensors that share their numbers.
    save_file(
        {
            name: tensor.detach().clone(memory_format=torch.contiguous_format)
            for name, tensor in tensors.items()
        },
        result,
        metadata={"values": values},
    )


def _plain(loaded: Mapping) -> dict[str, object]:
    """The plain values of the checkpoint and of the settings in it."""
    values: dict[str, object] = {}
    for name, value in loaded.items():
        inner = vars(value) if isinstance(value, StandIn) else value
        entries = inner if isinstance(inner, Mapping) else {name: inner}
        for key, entry in entries.items():
            if isinstance(entry, str):
                entry = entry[:LONGEST_TEXT]
            if isinstance(entry, str | int | float | bool) and len(values) < MOST_VALUES:
                values[str(key)[:LONGEST_TEXT]] = entry
    return values


def _limit_memory(memory_bytes: int) -> None:
    """At most so much more memory than the imported libraries take, where the system can do it."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        in_pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = in_pages * resource.getpagesize() + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _reason(error: BaseException) -> str:
    """The error on one line; of a refused class or function its name. Torch's own advice, to load
    it without this guard, is left out.
    """
    text = " ".join(str(error).split())
    if refused := re.search(r"GLOBAL ([\w.]+) (?:was not an allowed|whose module)", text):
        return f"it asks for {refused[1]}, and only tensors and plain values are read"
    if fault := re.search(r"WeightsUnpickler error: (.*?)(?: Check the documentation|$)", text):
        text = fault[1]
    return f"{type(error).__name__}: {text[:300]}"


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
    except Exception as error:
        # Damaged bytes raise errors of every kind
        print(_reason(error))
        sys.exit(1)
