"""Tokens of a prompt inside the template that its pipeline puts around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Templated:
    """A tokenizer that puts a prompt into its pipeline's template first.

    A token's place is that in the whole text with its padding, as the denoiser sees it. Its offsets
    (`offset_mapping`) are characters of the prompt; tokens of the template have (0, 0).

    Example: of `<user>a cat<end>` the tokens `<user>`, `a`, ` cat`, `<end>` have the offsets
    (0, 0), (0, 1), (1, 5), (0, 0).

    Args:
        tokenizer: the pipeline's own.
        before, after: the template around the prompt.
        dropped: how many tokens of the template the pipeline drops at the beginning.
        options: what the pipeline gives the tokenizer besides.
    """

    def __init__(
        self, tokenizer: Any, before: str, after: str = "", *, dropped: int = 0, **options: Any
    ) -> None:
        self._tokenizer, self._before, self._after = tokenizer, before, after
        self._dropped, self._options = dropped, options
        self.is_fast = tokenizer.is_fast
        self.model_max_length = tokenizer.model_max_length

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        """The strings of tokens."""
        return self._tokenizer.convert_ids_to_tokens(ids)

    def __call__(
        self, prompts: str | Sequence[str], *, max_length: int | None = None, **options: Any
    ) -> Any:
        """What the tokenizer gives for a prompt, or lists of it for several.

        `max_length`: of the tokens that are kept. The text is padded to it on the tokenizer's side,
        if `options` name no other.
        """
        from transformers import BatchEncoding

        if not isinstance(prompts, str):
            made = [self(prompt, max_length=max_length, **options) for prompt in prompts]
            return BatchEncoding({name: [one[name] for one in made] for name in made[0]})
        if max_length is not None:
            options |= {"max_length": max_length + self._dropped, "padding": "max_length"}
        text = f"{self._before}{prompts}{self._after}"
        encoded = self._tokenizer(text, **self._options | options)
        kept = {name: list(values)[self._dropped :] for name, values in encoded.items()}
        if "offset_mapping" in kept:
            kept["offset_mapping"] = [
                self._in_prompt(start, stop, len(prompts)) for start, stop in kept["offset_mapping"]
            ]
        return BatchEncoding(kept)

    def _in_prompt(self, start: int, stop: int, length: int) -> tuple[int, int]:
        """Characters of the whole text as characters of the prompt; (0, 0) for none."""
        skipped = len(self._before)
        first, last = max(start - skipped, 0), min(stop - skipped, length)
        return (first, last) if first < last else (0, 0)
