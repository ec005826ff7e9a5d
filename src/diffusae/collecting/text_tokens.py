"""Which tokens of the text are stored of every picture, where a block's text stream is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffusae.activations.schema import Stream
from diffusae.capture.generate import Generation
from diffusae.capture.text import own_tokens
from diffusae.errors import UserError
from diffusae.prompts.prompt_set import Prompt


@dataclass(frozen=True)
class StoredTokens:
    """Of one picture.

    Attributes:
        positions: {folder of a stream: the positions that are stored}: of a picture's stream all.
        strings: {conditioning: {place: token}}, where the family's tokens are known.
    """

    positions: dict[str, list[int]]
    strings: dict[str, dict[str, str]]


class TextTokens:
    """The stored tokens of every picture of a collection.

    The prompt's own tokens are stored, without padding. Of a family whose tokens are not known,
    they are all that the model does not mask.
    """

    def __init__(self, pipe: Any, text_tokens: int | None, streams: Sequence[Stream]) -> None:
        self._records_text = any(stream.of_tokens for stream in streams)
        self._of = lambda text, branch, length: own_tokens(
            pipe, text, branch, length=length, text_tokens=text_tokens
        )

    def of_batch(
        self, batch: Sequence[Prompt], streams: Sequence[Stream], made: Generation
    ) -> list[StoredTokens] | None:
        """One a picture; None: no text is recorded, and samples have all positions.

        Raises:
            UserError: the model has less tokens of a text than its tokenizer.
        """
        if not self._records_text:
            return None
        return [self._stored(prompt.text, row, streams, made) for row, prompt in enumerate(batch)]

    def _stored(
        self, text: str, row: int, streams: Sequence[Stream], made: Generation
    ) -> StoredTokens:
        positions: dict[str, list[int]] = {}
        tokens: dict[str, dict[int, str] | None] = {}
        for stream in streams:
            if not stream.of_tokens:
                positions[stream.folder] = list(range(stream.positions))
                continue
            branch = stream.conditioning
            length = made.lengths[stream.block, stream.timestep, branch][row]
            if branch not in tokens:
                tokens[branch] = self._of(text, branch, length)
            own = tokens[branch]
            places = list(range(length)) if own is None else sorted(own)
            if places and places[-1] >= length:
                raise UserError(
                    f"{stream.hookpoint} holds {length} tokens of {text!r}, and its tokenizer gives"
                    f" a token at place {places[-1]}; its text cannot be recorded"
                )
            positions[stream.folder] = places
        strings = {
            branch: {str(place): token for place, token in own.items()}
            for branch, own in sorted(tokens.items())
            if own is not None
        }
        return StoredTokens(positions, strings)
