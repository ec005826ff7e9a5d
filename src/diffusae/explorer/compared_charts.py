"""The charts of two cells side by side."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np

from diffusae.explorer.compared import Figure
from diffusae.report.charts import TOOLTIP, point
from diffusae.report.tables import plain

COLOURS = ("#0072b2", "#d55e00")
BINS = 40


def figures_chart(figures: Sequence[Figure], names: tuple[str, str]) -> alt.FacetChart | None:
    """A line of the chart for every figure that both cells have, each on its own axis: two points
    with their 95 % intervals. None: they share no figure.
    """
    data = [
        point(name, row.estimate, metric=f"{plain(figure.metric)} ({figure.unit})")
        for figure in figures
        for name, row in zip(names, figure.rows, strict=True)
        if row is not None and all(one and one.value is not None for one in figure.rows)
    ]
    if not data:
        return None
    scale = alt.Scale(domain=list(names), range=list(COLOURS))
    legend = alt.Legend(title=None, orient="top", columns=1)
    base = alt.Chart(alt.InlineData(data)).encode(
        y=alt.Y("name:N", title=None, axis=None, sort=list(names)),
        color=alt.Color("name:N", scale=scale, legend=legend),
        tooltip=[alt.Tooltip("metric:N"), *TOOLTIP[:1], *TOOLTIP[2:]],
    )
    x = alt.X("value:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5))
    drawn = alt.layer(
        base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=None), x2="high:Q"),
        base.mark_point(filled=True, size=55, opacity=1).encode(x=x),
    ).properties(width=230, height=34)
    order = list(dict.fromkeys(one["metric"] for one in data))
    facet = alt.Facet("metric:N", title=None, sort=order)
    return drawn.facet(facet=facet, columns=4).resolve_scale(x="independent")


def cosines_chart(cosines: Sequence[float]) -> alt.Chart:
    """How many latents of the first cell have a partner of which cosine, in bins from -1 to 1."""
    counts, edges = np.histogram(cosines, bins=BINS, range=(-1.0, 1.0))
    data = [
        {"low": float(low), "high": float(high), "latents": int(count)}
        for count, low, high in zip(counts, edges, edges[1:], strict=False)
        if count
    ]
    ends = [alt.Tooltip("low:Q", format=".2f", title="from"), alt.Tooltip("high:Q", format=".2f")]
    drawn = alt.Chart(alt.InlineData(data)).mark_bar(color=COLOURS[0])
    return drawn.encode(
        x=alt.X("low:Q", title="cosine with the partner", scale=alt.Scale(domain=[-1, 1])),
        x2="high:Q",
        y=alt.Y("latents:Q", title="latents"),
        tooltip=[*ends, "latents:Q"],
    ).properties(width=320, height=150)
