"""The command that trains one cell on the stream of the fixture `outputs`."""

from pathlib import Path

CELL = "mid-t1.00-cond"
_COMMAND = [
    "train", "debug=tiny", "timestep=early", "block=mid", "conditioning=cond",
    "trainer.accelerator=cpu", "sae.selection_precision=float32", "sae.dead_after_vectors=100",
]  # fmt: skip


def training(outputs: Path, name: str, *arguments: str) -> list[str]:
    """The words of a training called `name`, which writes below `outputs`."""
    where = [f"paths.outputs={outputs}", f"paths.activations={outputs / 'activations'}"]
    return [*_COMMAND, *arguments, *where, f"name={name}"]
