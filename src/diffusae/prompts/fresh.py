"""Captions that were not used before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from diffusae.errors import UserError
from diffusae.prompts.selection import normalised

MOST_TIMES = 64
"""At most so many times the wanted captions are asked for."""


def fresh_captions(
    texts: Callable[[int], Sequence[tuple[str, ...]]], wanted: int, *, seen: Iterable[str] = ()
) -> list[str]:
    """The next `wanted` captions of the split `test`, all different from each other.

    Left out are captions that a study has in any split, and those of `seen`. Case and white space
    make no other caption.

    Args:
        texts: the study's (split, caption) with so many more captions of the split `test`.

    Raises:
        UserError: there are too few.
    """
    known = {normalised(text) for _, text, *_ in texts(0)} | set(map(normalised, seen))
    more, found = wanted, dict[str, str]()
    while more <= MOST_TIMES * wanted:
        try:
            given = texts(more)
        except UserError as error:
            raise UserError(
                f"{wanted} captions are needed that were not used yet: {error}"
            ) from error
        for split, text, *_ in given:
            if split == "test" and normalised(text) not in known:
                found.setdefault(normalised(text), text)
        if len(found) >= wanted:
            return list(found.values())[:wanted]
        more *= 2
    raise UserError(
        f"{wanted} unused captions are needed, and there are {len(found)}; give more captions, or"
        " lower claims.captions"
    )
