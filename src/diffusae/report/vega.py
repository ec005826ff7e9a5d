"""Vega-Lite charts in a page that loads nothing: every chart's specification as JSON, and the
library once.

Text in a chart comes from results, so it may come from anyone. It stands in data and titles only,
never in an expression, and the JSON cannot end the script element that holds it.
"""

from __future__ import annotations

import io
import json
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup
from PIL import Image


class ChartBook:
    """Gives an element for every chart, and keeps the charts for the page's script."""

    def __init__(self) -> None:
        self._specs: list[dict[str, Any]] = []

    def chart(self, chart: Any, *, alt: str) -> Markup:
        """The element that the page's script fills with an Altair chart, and its text alternative.

        Without scripts the text alternative is shown.
        """
        self._specs.append(chart.to_dict())
        return Markup(
            '<div class="chart" id="chart-{}" role="img" aria-label="{}"><p class="nodata">{}</p>'
            "</div>"
        ).format(len(self._specs) - 1, alt, alt)

    @property
    def data(self) -> Markup:
        """The charts as JSON in a script element; nothing where there are none."""
        if not self._specs:
            return Markup("")
        text = json.dumps(self._specs, separators=(",", ":"), ensure_ascii=False)
        # No text in it can close the element or open a comment.
        for character in "<>&\u2028\u2029":
            text = text.replace(character, f"\\u{ord(character):04x}")
        return Markup('<script type="application/json" id="charts">{}</script>').format(
            Markup(text)
        )


@cache
def library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one piece of JavaScript, some 900 kB (some seconds)."""
    import vl_convert

    return vl_convert.javascript_bundle()  # pyright: ignore[reportCallIssue] - its stub is wrong


def png(chart: Any, *, scale: float = 1.5) -> bytes:
    """The chart as a PNG on white, for W&B and the documentation."""
    import vl_convert

    return vl_convert.vegalite_to_png(
        chart.properties(background="white").to_dict(), scale=scale, allowed_base_urls=[]
    )


def pixels(chart: Any) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of that PNG."""
    return np.asarray(Image.open(io.BytesIO(png(chart))).convert("RGB"))
