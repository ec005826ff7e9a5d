"""Tokens of a prompt inside the template that its pipeline puts around it."""

from __future__ import annotations

from typing import Any


class Templated:
    """A tokenizer that puts a prompt into its pipeline's template first.

    It encodes one prompt. Places (`offset_mapping`) are those in the prompt itself: a token of the
    template lies before place 0 or behind the prompt's end.

    Args:
        tokenizer: the pipeline's own.
        before, after: the template around the prompt.
        dropped: how many tokens of the template the pipeline drops at the beginning.
    """

    def __init__(self, tokenizer: Any, before: str, after: str = "", *, dropped: int = 0) -> None:
        self._tokenizer, self._before, self._after = tokenizer, before, after
        self._dropped = dropped
        self.is_fast = tokenizer.is_fast
        self.model_max_length = tokenizer.model_max_length

    def __call__(
        self, text: str, *, max_length: int | None = None, **options: Any
    ) -> dict[str, list[Any]]:
        """`max_length`: of the tokens that are kept."""
        longest = None if max_length is None else max_length + self._dropped
        whole = f"{self._before}{text}{self._after}"
        encoded = self._tokenizer(whole, max_length=longest, **options)
        kept = {name: list(values)[self._dropped :] for name, values in encoded.items()}
        if "offset_mapping" in kept:
            skipped = len(self._before)
            kept["offset_mapping"] = [
                (start - skipped, end - skipped) for start, end in kept["offset_mapping"]
            ]
        return kept
