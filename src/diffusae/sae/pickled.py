"""Pickled checkpoints of others: a process of its own makes safetensors of them. Nothing here, and
nothing else in diffusae, opens the pickle itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffusae.errors import UserError

PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt")
MOST_BYTES = 16 << 30
"""Of a pickle that is converted; the largest published one has some 1.2 GB."""
TIMEOUT_S = 600
_SCRIPT = Path(__file__).with_name("convert_pickle.py")
_REMEDY = "nothing of it was read; save the state dict alone, best as safetensors"


@contextmanager
def as_safetensors(path: Path) -> Iterator[Path]:
    """The checkpoint's tensors as a safetensors file in a temporary directory, which is removed
    afterwards. `convert_pickle` says what the file holds.

    The process that converts gets the environment's paths and nothing else of it, at most
    `TIMEOUT_S` seconds, and memory for a few copies of the file.

    Raises:
        UserError: the file is too large or no checkpoint, holds anything but tensors and plain
            values, or the process took too much memory or time.
    """
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise UserError(f"{path} has {size} bytes, at most {MOST_BYTES} are converted; {_REMEDY}")
    with tempfile.TemporaryDirectory() as directory:
        result = Path(directory) / "tensors.safetensors"
        memory = 6 * size + (512 << 20)
        command = [sys.executable, "-P", str(_SCRIPT), str(path.absolute()), str(result)]
        try:
            done = subprocess.run(
                [*command, str(memory)],
                env=_environment(),
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise UserError(
                f"{path} could not be converted within {TIMEOUT_S} seconds; {_REMEDY}"
            ) from None
        if done.returncode or not result.is_file():
            reason = done.stdout.decode(errors="replace").strip()[:400]
            raise UserError(f"{path} is refused: {reason or 'its conversion was ended'}; {_REMEDY}")
        yield result


def _environment() -> dict[str, str]:
    """What finds Python's packages, and no more: no tokens, no proxies."""
    kept = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR", "VIRTUAL_ENV")
    found = {name: os.environ[name] for name in kept if name in os.environ}
    packages = os.pathsep.join(place for place in sys.path if place)
    return found | {"PYTHONPATH": packages, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
