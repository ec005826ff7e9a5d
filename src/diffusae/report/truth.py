"""The benchmark of truth as the report reads and draws it: what latents recover, and how every
figure tells an oracle from subjects without truth.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from diffusae.errors import UserError
from diffusae.evaluation.result import NO_DATA, Estimate, Result
from diffusae.evaluation.sensitivity import ORACLE
from diffusae.report.charts import GREY, TOOLTIP, point
from diffusae.report.tables import Row, cell_order, plain

METRIC = "truth"
AUDIT = "audit_"
"""How the names of the rows of audited metrics begin."""
RECOVERY = ("recovery_", "probing_")
"""How the names of the rows begin that the chart shows."""
CONTROLS = ("permuted_labels", "random_weights")
_COLOURS = {
    "latents": "#0072b2", "neurons": "#e69f00", "random weights": "#cc79a7",
    "permuted labels": "#59a14f", "always yes": GREY, "dense probe": "#000000",
}  # fmt: skip


@dataclass(frozen=True)
class Audited:
    """One figure of one autoencoder.

    Attributes:
        name: of the figure.
        metric: that gives it; "truth" for its own figures.
        least: the smallest difference that it can see; None: it has no interval.
        steps: from the oracle to the nearer control, in smallest differences; None: not known.
        reseeded: the standard deviation over `seeds` SAE seeds; None: fewer than two.
    """

    name: str
    metric: str
    place: str
    sae: str
    higher_is_better: bool
    trained: Estimate
    oracle: Estimate
    controls: Sequence[Estimate]
    least: float | None
    steps: float | None
    reseeded: float | None
    seeds: int


def audited(results: Iterable[Result]) -> list[Audited]:
    """The table's lines, cell by cell.

    Raises:
        UserError: a row that lacks a field.
    """
    found = []
    for row in _ordered(results):
        result, details = row.result, row.details
        try:
            found.append(
                Audited(
                    name=result.metric.removeprefix(AUDIT),
                    metric=details.get("audited", METRIC),
                    place=row.place,
                    sae=details["sae"],
                    higher_is_better=result.higher_is_better,
                    trained=result.estimate,
                    oracle=row.baselines.get(ORACLE, NO_DATA),
                    controls=[row.baselines.get(name, NO_DATA) for name in CONTROLS],
                    least=details["smallest_difference"],
                    steps=details["steps"],
                    reseeded=details["reseed_deviation"],
                    seeds=details["n_seeds"],
                )
            )
        except KeyError as error:
            raise UserError(
                f"a row of {result.metric} lacks {error}; evaluate this cell by truth again"
            ) from error
    return found


def recovered(results: Iterable[Result]) -> alt.FacetChart | None:
    """F1 of every factor and of every k, a panel a cell and autoencoder: latents beside neurons,
    random weights, permuted labels and a dense probe. None: no data.
    """
    data: list[dict[str, Any]] = []
    names: list[str] = []
    for row in _ordered(results):
        name = row.result.metric
        if not name.startswith(RECOVERY) or row.figure.value is None:
            continue
        where = {
            "row": plain(name.removeprefix("recovery_").replace("probing_k", "probe, k = ")),
            "panel": f"{row.place} · {row.details.get('sae', '')}",
        }
        names.append(where["row"])
        figures = {"latents": row.figure} | {plain(k): v for k, v in row.baselines.items()}
        data += [
            point(reader, figures[reader], **where) for reader in _COLOURS if reader in figures
        ]
    if not data:
        return None
    base = alt.Chart(alt.InlineData(data)).encode(
        y=alt.Y("row:N", sort=list(dict.fromkeys(names)), title=None),
        color=alt.Color(
            "name:N",
            scale=alt.Scale(domain=list(_COLOURS), range=list(_COLOURS.values())),
            legend=alt.Legend(title=None, orient="top", columns=3),
        ),
        tooltip=[*TOOLTIP[:1], *TOOLTIP[2:]],
    )
    drawn = alt.layer(
        base.mark_rule(opacity=0.5).encode(
            x=alt.X("low:Q", title="F1 on the test pictures", scale=alt.Scale(domain=[0, 1])),
            x2="high:Q",
        ),
        base.mark_point(filled=True, size=45, opacity=1).encode(x="value:Q"),
    ).properties(width=300, height=alt.Step(20))
    panels = list(dict.fromkeys(one["panel"] for one in data))
    return drawn.facet(facet=alt.Facet("panel:N", title=None, sort=panels), columns=2)


def _ordered(results: Iterable[Result]) -> list[Row]:
    rows = [Row.of(result) for result in results]
    return sorted(
        rows,
        key=lambda row: (
            *cell_order(row.block, row.t, row.conditioning),
            row.details.get("sae", ""),
        ),
    )
