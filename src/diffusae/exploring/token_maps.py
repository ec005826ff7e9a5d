"""Activity of latents over the tokens of a text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from diffusae.capture.attention import word_spans
from diffusae.concepts.montage import heat_colours
from diffusae.errors import UserError
from diffusae.exploring.cells import OpenCell
from diffusae.report.strip import StripFigure, strip_figure

COLUMNS = 4
SIDE = 256
"""Pixels of a token picture that stands alone."""

_STARTS = ("▁", "Ġ")
"""What the first token of a word begins with, by tokenizers of T5 and of Qwen."""
_END = "</w>"
"""What CLIP's last token of a word ends with."""
_NEW_LINE = "Ċ"
"""Of Qwen's tokenizer, as between a template and the prompt."""
_SPECIAL = re.compile(r"<.*>")


@dataclass(frozen=True)
class TokenMaps:
    """What latents of one cell do at every token of a prompt.

    Attributes:
        cell: the cell, of a block's text stream.
        prompt: the text; in the branch `uncond` the model reads the empty text.
        picture: uint8 [height, width, 3], which was made of it.
        tokens: as the tokenizer has them.
        latents: the latents, one a row of `values`.
        values: [latents, tokens], in data units.
    """

    cell: OpenCell
    prompt: str
    picture: UInt8[np.ndarray, "height width 3"]
    tokens: list[str]
    latents: list[int]
    values: Float[Tensor, "latents tokens"]

    def top(self, n: int, *, word: str | None = None) -> TokenMaps:
        """The `n` rows with the largest means, the largest first: over all tokens, or how much
        larger over the tokens of a word than over the others.

        Raises:
            UserError: n below 1, or a word that is not among the tokens.
        """
        if n < 1:
            raise UserError(f"top({n}): a number from 1 is needed")
        ranked = self.values.mean(dim=1)
        if word is not None:
            own = places_of(word, self.tokens)
            if not own:
                raise UserError(f"the tokens of {self.prompt!r} have no word {word!r}")
            others = [place for place in range(len(self.tokens)) if place not in own]
            ranked = self.values[:, own].mean(dim=1)
            ranked = ranked - (self.values[:, others].mean(dim=1) if others else 0)
        order = ranked.argsort(descending=True, stable=True)[:n]
        chosen = [self.latents[row] for row in order.tolist()]
        return replace(self, latents=chosen, values=self.values[order])

    def together(self) -> Float[Tensor, " tokens"]:
        """One row of all these latents: the sum."""
        return self.values.sum(dim=0)

    def drawn(self) -> UInt8[np.ndarray, "height width 3"]:
        """The tokens under all these latents together, as large as the picture."""
        height, width, _ = self.picture.shape
        return picture_of(self.tokens, self.together(), (height, width))

    def plot(self) -> StripFigure:
        """Every latent's tokens, from 0 (dark) to its own largest value (bright)."""
        shown = [
            (f"{latent} {self.cell.labels_of(latent)}".strip(), picture_of(self.tokens, row))
            for latent, row in zip(self.latents, self.values, strict=True)
        ]
        title = f"{self.cell.name}, {self.prompt!r}"
        return strip_figure(shown, title=title, columns=max(1, min(COLUMNS, len(shown))))

    def table(self) -> pd.DataFrame:
        """One row a latent and token where it is active: latent, place, token, value."""
        rows, places = self.values.nonzero(as_tuple=True)
        return pd.DataFrame(
            {
                "latent": [self.latents[row] for row in rows.tolist()],
                "place": places.tolist(),
                "token": [self.tokens[place] for place in places.tolist()],
                "value": self.values[rows, places].tolist(),
            }
        )


def places_of(word: str, tokens: Sequence[str]) -> list[int]:
    """The places of a word's tokens, wherever it stands as a whole word, in any case.

    Example: "cats" is at 1 and 2 of ["a</w>", "cat", "s</w>"], and of ["▁a", "▁cat", "s"].
    """
    text, spans = "", []
    ended = True
    for token in tokens:
        special = _SPECIAL.fullmatch(token) is not None
        if ended or special or token.startswith(_STARTS):
            text += " "
        piece = "" if special else spelled(token)
        spans.append((len(text), len(text) + len(piece)))
        text += piece
        ended = special or token.endswith(_END)
    found = word_spans(word, text)
    return [
        place
        for place, (start, end) in enumerate(spans)
        if any(start < stop and end > begin for begin, stop in found)
    ]


def spelled(token: str) -> str:
    """A token without its tokenizer's marks of a word's begin and end; a new line is a space."""
    return token.lstrip("".join(_STARTS)).removesuffix(_END).replace(_NEW_LINE, " ")


def picture_of(
    tokens: Sequence[str], values: Float[Tensor, " tokens"], size: tuple[int, int] = (SIDE, SIDE)
) -> UInt8[np.ndarray, "height width 3"]:
    """The tokens in lines, on colours from 0 (dark) to the largest value (bright).

    Args:
        size: (height, width) in pixels. What does not fit is left out.
    """
    from matplotlib import font_manager

    height, width = size
    letters = max(8, width // 18)
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), letters)
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    high = max(float(values.max()), 1e-12) if len(values) else 1.0
    colours = heat_colours(values.numpy()[None].astype(np.float64), low=0.0, high=high)[0]
    x, y, line = 2, 2, int(letters * 1.6)
    for token, colour in zip(tokens, colours, strict=True):
        text = spelled(token) or "·"
        wide = int(draw.textlength(text, font=font)) + letters // 2
        if x > 2 and x + wide > width:
            x, y = 2, y + line
        if y + line > height:
            break
        draw.rectangle((x, y, x + wide - 2, y + line - 3), fill=tuple(map(int, colour)))
        dark = int(colour.astype(int).sum()) < 3 * 128
        draw.text((x + letters // 4, y + 1), text, fill="white" if dark else "black", font=font)
        x += wide
    return np.asarray(picture)
