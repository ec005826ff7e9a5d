"""Captions from a text file, one a line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from diffusae.errors import UserError, together
from diffusae.prompts.prompt_set import check_counts, in_splits


class TextFilePrompts:
    """The captions of a UTF-8 text file, dealt out to the splits in the file's order.

    Args:
        path: the file; one caption a line.
        counts: split name to the number of pictures.

    Raises:
        UserError: the file does not exist, or (from `texts`) lines are empty or not UTF-8, named by number.
    """

    def __init__(self, path: str | Path | None, counts: Mapping[str, int]) -> None:
        if path is None or not Path(path).is_file():
            raise UserError(f"prompts.path={path} is not a file; give a text file with one caption a line")
        self.path, self.counts = Path(path), check_counts(counts)

    def texts(self) -> list[tuple[str, str]]:
        """Pairs of (split, caption)."""
        captions: list[str] = []
        faults: list[str] = []
        for number, line in enumerate(self.path.read_bytes().splitlines(), start=1):
            try:
                text = line.decode("utf-8").strip()
            except UnicodeDecodeError:
                faults.append(f"{self.path}, line {number}: not UTF-8; save the file as UTF-8")
                continue
            if not text:
                faults.append(f"{self.path}, line {number}: empty; remove the line")
            captions.append(text)
        together(faults)
        return in_splits(self.counts, captions, source=str(self.path))
