"""Tokens of prompts that a pipeline rewrites before it encodes them: it puts them in lower case
without spaces around (PixArt, Sana), and perhaps after an instruction (Sana).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

_INSTRUCTION = "complex_human_instruction"


@dataclass(frozen=True)
class Encoded:
    """The tokens of one prompt, or of several."""

    input_ids: list[Any]
    offset_mapping: list[Any]

    def __getitem__(self, name: str) -> list[Any]:
        return getattr(self, name)


class RewrittenPrompts:
    """The tokenizer of prompts as the denoiser sees them.

    After an instruction, that is the first token, and then the last `limit - 1` of the instruction
    and the prompt, which are padded together to the instruction's length + limit - 2.

    Example: with an instruction of 5 tokens (`<bos>` i i i i) and a limit of 4, the text is padded
    or cut to 7 tokens: `<bos>` i i i i p p. Places 0, 4, 5 and 6 are kept, so a token p at place 5
    of the text is at place 2 of what the denoiser sees.

    Args:
        tokenizer: the pipeline's own.
        instruction: "" for none.
        limit: tokens that the denoiser sees.
    """

    is_fast = True

    def __init__(self, tokenizer: Any, instruction: str, limit: int) -> None:
        self.tokenizer, self.instruction = tokenizer, instruction
        self.model_max_length = limit
        self._dropped = len(tokenizer.encode(instruction)) - 2 if instruction else 0
        """How much lower a token's place is than in the whole text."""

    @classmethod
    def instructed(cls, tokenizer: Any, pipeline: type, limit: int) -> Self:
        """With the instruction that a class of pipelines gives by default."""
        call = inspect.signature(pipeline.__call__)  # pyright: ignore[reportFunctionMemberAccess]
        return cls(tokenizer, "\n".join(call.parameters[_INSTRUCTION].default), limit)

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """The strings of tokens."""
        return self.tokenizer.convert_ids_to_tokens(ids)

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        truncation: bool = False,
        max_length: int | None = None,
        return_offsets_mapping: bool = True,
    ) -> Encoded:
        """Ids of the tokens, and where each begins and ends in the prompt; (0, 0) for tokens of the
        instruction. With `truncation`, at most `max_length` (None: `limit`)."""
        most = (max_length or self.model_max_length) if truncation else None
        if isinstance(text, str):
            return Encoded(*self._one(text, most))
        parts = [self._one(one, most) for one in text]
        return Encoded([ids for ids, _ in parts], [offsets for _, offsets in parts])

    def _one(self, text: str, most: int | None) -> tuple[list[int], list[tuple[int, int]]]:
        before, spaces = len(self.instruction), len(text) - len(text.lstrip())
        whole = self.tokenizer(
            self.instruction + text.lower().strip(),
            return_offsets_mapping=True,
            truncation=most is not None,
            max_length=None if most is None else most + self._dropped,
        )
        kept = [0, *range(1 + self._dropped, len(whole["input_ids"]))]
        places = [whole["offset_mapping"][place] for place in kept]
        offsets = [
            (max(start - before, 0) + spaces, stop - before + spaces) if stop > before else (0, 0)
            for start, stop in places
        ]
        return [whole["input_ids"][place] for place in kept], offsets
