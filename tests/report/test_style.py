from __future__ import annotations

import re
from typing import Any

from diffusae.report.plots import iou_curves
from diffusae.report.style import block_colours, svg
from report.rows import CHANCE, figure, result


def rows(block: str) -> list[dict[str, Any]]:
    return [
        result(block, t, "cond", figure(0.3, (0.2, 0.4), 5), baselines=CHANCE) for t in (1.0, 0.0)
    ]


def test_blocks_of_any_name_get_colours_of_their_own() -> None:
    blocks = ["down", "mid", "up", *"abcd"]
    assert len(set(block_colours(blocks).values())) == 7


def test_svg_escapes_names_and_reads_no_mathematics_in_them() -> None:
    drawn = svg(iou_curves(rows("<script>$x^2$")), name="n", alt='a "b" <c>')
    assert "&lt;script&gt;$x^2$" in drawn
    assert "<script>" not in drawn
    assert 'aria-label="a &#34;b&#34; &lt;c&gt;"' in drawn


def test_svg_takes_the_colours_of_the_page_and_ids_of_its_own() -> None:
    one, two = (svg(iou_curves(rows("mid")), name=name, alt="") for name in ("one", "two"))
    assert "var(--ink)" in one
    assert "fill: #ffffff" not in one
    identifiers = [set(re.findall(r'\bid="([^"]*)"', each)) for each in (one, two)]
    assert not identifiers[0] & identifiers[1]
    referred = set(re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', one))
    assert {a or b for a, b in referred} <= identifiers[0]
