"""Tokens of a prompt that a pipeline puts after an instruction of its own (Sana)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

_INSTRUCTION = "complex_human_instruction"


@dataclass(frozen=True)
class Encoded:
    """What `Instructed` returns: the tokens of one prompt, or of several."""

    input_ids: list[Any]
    offset_mapping: list[Any]

    def __getitem__(self, name: str) -> list[Any]:
        return getattr(self, name)


class Instructed:
    """The tokenizer of a prompt's tokens as the denoiser sees them: the first token, then the last
    `limit - 1` of the instruction and the prompt padded to the instruction's length + limit - 2.

    Example: with an instruction of 5 tokens (`<bos>` i i i i) and a limit of 4, the text is padded
    or cut to 7 tokens: `<bos>` i i i i p p. Places 0, 4, 5 and 6 are kept, so a token p at place 5
    of the text is at place 2 of what the denoiser sees.

    The pipeline puts prompts in lower case and removes spaces around them, and so does this.

    Args:
        tokenizer: the pipeline's own.
        instruction: "" for none.
        limit: tokens that the denoiser sees.
    """

    is_fast = True

    def __init__(self, tokenizer: Any, instruction: str, limit: int) -> None:
        self.tokenizer, self.instruction, self.limit = tokenizer, instruction, limit
        self.model_max_length = limit
        self._dropped = len(tokenizer.encode(instruction)) - 2 if instruction else 0
        """How much lower a token's place is than in the whole text."""

    @classmethod
    def of(cls, tokenizer: Any, pipeline: type, limit: int) -> Self:
        """With the instruction that a class of pipelines gives by default."""
        call = inspect.signature(pipeline.__call__)  # pyright: ignore[reportFunctionMemberAccess]
        return cls(tokenizer, "\n".join(call.parameters[_INSTRUCTION].default), limit)

    def __call__(
        self,
        text: str | Sequence[str],
        *,
        truncation: bool = False,
        max_length: int | None = None,
        return_offsets_mapping: bool = False,
    ) -> Encoded:
        """Ids of the tokens, and where each begins and ends in the prompt; (0, 0) for tokens of the
        instruction. With `truncation`, at most `max_length` (None: `limit`)."""
        most = (max_length or self.limit) if truncation else None
        texts = [text] if isinstance(text, str) else text
        parts = [self._one(one, most) for one in texts]
        ids, offsets = ([part[name] for part in parts] for name in (0, 1))
        return Encoded(*(ids[0], offsets[0])) if isinstance(text, str) else Encoded(ids, offsets)

    def _one(self, text: str, most: int | None) -> tuple[list[int], list[tuple[int, int]]]:
        before = len(self.instruction)
        spaces = len(text) - len(text.lstrip())
        whole: Mapping[str, Any] = self.tokenizer(
            self.instruction + text.lower().strip(), return_offsets_mapping=True
        )
        kept = [0, *range(1 + self._dropped, len(whole["input_ids"]))][:most]
        offsets = [whole["offset_mapping"][place] for place in kept]
        inside = [
            (max(start - before, 0) + spaces, stop - before + spaces) if stop > before else (0, 0)
            for start, stop in offsets
        ]
        return [whole["input_ids"][place] for place in kept], inside
