"""Tokens of prompts that a pipeline puts into a chat template before it encodes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

_MARK = "\ue000"
"""A character of no script: where it lands, the template puts the prompt."""


class TemplatedTokenizer:
    """A tokenizer that puts a prompt into its template first.

    A token's place is that in the whole text, with padding, as the denoiser sees it. Its offsets
    are characters of the prompt; they are (0, 0) for tokens of the template.

    Example: of `<user>a cat<end>` the tokens `<user>`, `a`, ` cat`, `<end>` have the offsets
    (0, 0), (0, 1), (1, 5), (0, 0).

    Args:
        tokenizer: of transformers.
        render: gives the text that the pipeline encodes for a prompt.
    """

    def __init__(self, tokenizer: Any, render: Callable[[str], str]) -> None:
        self._own, self._render = tokenizer, render
        before, _, after = render(_MARK).partition(_MARK)
        self._around = len(before), len(after)

    @property
    def is_fast(self) -> bool:
        """Whether the tokenizer knows offsets."""
        return self._own.is_fast

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """The strings of tokens."""
        return self._own.convert_ids_to_tokens(ids)

    def __call__(
        self,
        prompts: str | Sequence[str],
        *,
        truncation: bool = False,
        max_length: int | None = None,
        return_offsets_mapping: bool = True,
    ) -> Any:
        """`input_ids` and `offset_mapping` of a prompt, or lists of them. With `max_length` the
        text is padded to it, on the side that the tokenizer pads."""
        from transformers import BatchEncoding

        options: dict[str, Any] = {"truncation": truncation, "max_length": max_length}
        if not isinstance(prompts, str):
            made = [self(prompt, **options) for prompt in prompts]
            return BatchEncoding(
                {name: [one[name] for one in made] for name in ("input_ids", "offset_mapping")}
            )
        text = self._render(prompts)
        encoded = self._own(
            text,
            add_special_tokens=False,
            return_offsets_mapping=True,
            padding=False if max_length is None else "max_length",
            **options,
        )
        offsets = self._in_prompt(prompts, text, encoded["offset_mapping"])
        return BatchEncoding({"input_ids": encoded["input_ids"], "offset_mapping": offsets})

    def _in_prompt(
        self, prompt: str, text: str, offsets: Sequence[tuple[int, int]]
    ) -> list[tuple[int, int]]:
        """Offsets in the whole text as offsets in the prompt. A template may strip the prompt; if
        it changes it otherwise, no token is taken for one of the prompt."""
        first, last = self._around[0], len(text) - self._around[1]
        stripped = prompt.find(text[first:last])
        if stripped < 0:
            return [(0, 0)] * len(offsets)
        shift = stripped - first
        return [
            (max(start, first) + shift, min(stop, last) + shift)
            if max(start, first) < min(stop, last)
            else (0, 0)
            for start, stop in offsets
        ]
