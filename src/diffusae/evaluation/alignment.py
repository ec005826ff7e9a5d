"""Whether a picture shows what its caption asks for, from the caption and the annotation.

A caption asks for the labels that it names (`nouns`), for the colour right before a noun, and for a
value of a factor, such as a style. Per picture, all in the range [0, 1], higher is better:

- nouns_found: the share of the named nouns that were found; no data (None) without a named noun;
- style_reached: 1 where the value of every named factor was recognised, else 0; no data without a
  named factor;
- aligned: 1 where every noun is found, every colour is right (as far as the annotator knows
  colours) and every named factor is recognised, else 0. A caption that asks for nothing is no data.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from diffusae.errors import UserError

COLOURS = (
    "red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown", "black", "white",
    "grey", "gray",
)  # fmt: skip
"""Words that are colours before a noun. A colour that the annotator does not know never counts."""

NounsIn = Callable[[str], Mapping[str, Collection[str]]]
"""Text -> each label that it names -> its words (`concepts.words.Vocabulary.named_in`)."""


@dataclass(frozen=True)
class Asked:
    """The nouns, colours and factors that a caption asks for."""

    nouns: tuple[str, ...] = ()
    colours: Mapping[str, str] = field(default_factory=dict)
    factors: Mapping[str, str] = field(default_factory=dict)

    def names(self, target: str) -> bool:
        """Whether it asks for a noun, a factor's value, a colour or a coloured noun of this
        name.
        """
        coloured = {f"{colour} {noun}" for noun, colour in self.colours.items()}
        named = {*self.nouns, *self.factors.values(), *self.colours.values(), *coloured}
        return target in named

    def without(self, target: str) -> Asked:
        """The same without the target. Without a colour, the noun stays."""
        return Asked(
            tuple(noun for noun in self.nouns if noun != target),
            {
                noun: colour
                for noun, colour in self.colours.items()
                if target not in (noun, colour, f"{colour} {noun}")
            },
            {factor: value for factor, value in self.factors.items() if value != target},
        )


@dataclass(frozen=True)
class Aligned:
    """How much of it a picture shows; None: no data."""

    nouns_found: float | None
    style_reached: float | None
    aligned: float | None


def asked_for(
    caption: str, nouns_in: NounsIn, factors: Mapping[str, Sequence[str]], *, style: str = "style"
) -> Asked:
    """What a caption asks for.

    Args:
        factors: factor -> its values; a value counts where its name is a word of the caption. Only
            `style` is read: captions name other factors, such as a tone, in other words.
    """
    words = caption.lower().replace(",", " ").split()
    named = nouns_in(caption)
    colours = {}
    for noun, by in named.items():
        for place, word in enumerate(words[1:], start=1):
            if word in by and words[place - 1] in COLOURS:
                colours[noun] = words[place - 1]
                break
    taken = {word for by in named.values() for word in by}
    styles = [value for value in factors.get(style, ()) if value in words and value not in taken]
    return Asked(tuple(named), colours, {style: styles[0]} if styles else {})


def alignment(
    asked: Asked,
    *,
    detected: Collection[str],
    colours: Mapping[str, str],
    factors: Mapping[str, str],
) -> Aligned:
    """Judge a picture by its annotation: the nouns found, their colours, the values of factors."""
    nouns = [noun in detected for noun in asked.nouns]
    right = [colours[noun] == colour for noun, colour in asked.colours.items() if noun in colours]
    reached = [factors.get(name) == value for name, value in asked.factors.items()]
    everything = [*nouns, *right, *reached]
    return Aligned(
        sum(nouns) / len(nouns) if nouns else None,
        float(all(reached)) if reached else None,
        float(all(everything)) if everything else None,
    )


def coloured(target: str) -> tuple[str, str] | None:
    """The colour of a target such as "blue" or "blue car", and its noun; "": of any object."""
    colour, _, noun = target.partition(" ")
    return (colour, noun) if colour in COLOURS else None


def shows(
    target: str,
    *,
    nouns: Collection[str],
    factors: Mapping[str, Sequence[str]],
    detected: Collection[str],
    recognised: Mapping[str, str],
    colours: Mapping[str, str],
) -> bool:
    """Whether a picture shows the target: a noun, a value of a factor, a colour of any object
    ("blue") or of one ("blue car").

    Args:
        nouns, factors: what the annotator knows.
        detected, recognised, colours: what it says of the picture.

    Raises:
        UserError: the annotator knows no such noun or value; the known ones are listed.
    """
    if target in nouns:
        return target in detected
    for factor, values in factors.items():
        if target in values:
            return recognised.get(factor) == target
    if (asked := coloured(target)) is not None and asked[1] in {"", *nouns}:
        colour, noun = asked
        return colour in ([colours.get(noun)] if noun else colours.values())
    known = ", ".join(sorted([*nouns, *(value for values in factors.values() for value in values)]))
    raise UserError(
        f"the annotator cannot tell {target!r}; choose a target it knows: {known}; or a colour"
        f" ({', '.join(COLOURS)}), alone or before a noun"
    )
