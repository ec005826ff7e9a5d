"""Decision times as the report reads and draws them: the share of pictures that show the other
caption's value, over the t from which on that caption is in force.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from diffusae.errors import UserError
from diffusae.evaluation.result import Estimate, Result
from diffusae.report.charts import GREY, TIME_LABEL, TOOLTIP, point

METRIC = "decisions"
TIME, WINDOW = "decided_", "shown_"
"""How the names of the metric's rows begin: decision times, and windows."""
SHARE = "share that show the new value"
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")


@dataclass(frozen=True)
class Decision:
    """One attribute with the steps at one place.

    Attributes:
        placement: its name. shift: how much higher the log-SNR of every step is.
        time: t*; no data where the model does not show the attribute, or shows it by chance.
        windows: (name, first t, last t, share after an exchange in this window alone).
        old, new: the share with the old caption throughout (chance), and with the new one.
        curve: (t, share), t from 1 to 0.
        captions, pictures: how many of them.
    """

    attribute: str
    placement: str
    shift: float
    steps: int
    time: Estimate
    windows: Sequence[tuple[str, float, float, Estimate]]
    old: Estimate
    new: Estimate
    curve: Sequence[tuple[float, Estimate]]
    captions: int
    pictures: int


def decisions_of(results: Iterable[Result]) -> list[Decision]:
    """The decisions of a study, attribute by attribute. Cells have no part in them: of several
    evaluations the last one counts.

    Raises:
        UserError: a row that lacks a field.
    """
    times: dict[tuple[str, str], Result] = {}
    windows: dict[tuple[str, str], list[Result]] = {}
    try:
        for row in results:
            key = (str(row.details["attribute"]), str(row.details["placement"]))
            if row.metric.startswith(TIME):
                times[key], windows[key] = row, []
            else:
                windows[key].append(row)
        order = list(dict.fromkeys(attribute for attribute, _ in times))
        keys = sorted(times, key=lambda key: order.index(key[0]))
        return [_decision(key, times[key], windows[key]) for key in keys]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"a row of {METRIC} is incomplete ({error!r}); evaluate this cell again"
        ) from error


def _decision(key: tuple[str, str], row: Result, windows: Sequence[Result]) -> Decision:
    about: Mapping[str, Any] = row.details
    curve = [(float(one["t"]), Estimate.from_json(one)) for one in about["curve"]]
    ending = "_".join(("", *key))
    return Decision(
        *key,
        shift=float(about["log_snr_shift"]),
        steps=int(about["steps"]),
        time=row.estimate,
        windows=[_window(one, ending) for one in windows],
        old=curve[-1][1],
        new=curve[0][1],
        curve=curve,
        captions=int(about["captions"]),
        pictures=int(about["pictures"]),
    )


def _window(row: Result, ending: str) -> tuple[str, float, float, Estimate]:
    first, last = row.details["window"]
    name = row.metric.removeprefix(WINDOW).removesuffix(ending)
    return name, float(first), float(last), row.estimate


def curves(
    decisions: Sequence[Decision], *, title: str = "placement of the steps"
) -> alt.FacetChart:
    """The share over t, a panel an attribute and a line a placement, with 95 % bands; the rule is
    one half, and a diamond t*. `title`: what the lines are.
    """
    names = list(dict.fromkeys(one.placement for one in decisions))
    shares = [
        point(one.placement, share, t=t, attribute=one.attribute)
        for one in decisions
        for t, share in one.curve
    ]
    moments = [
        {"name": one.placement, "attribute": one.attribute, "t": one.time.value, "moment": 0.5}
        for one in decisions
        if one.time.value is not None
    ]
    colour = alt.Color(
        "name:N",
        scale=alt.Scale(domain=names, range=list(_COLOURS[: len(names)])),
        legend=alt.Legend(title=title, orient="top", symbolType="stroke", symbolOpacity=1)
        if names[1:]
        else None,
    )
    x = alt.X("t:Q", title=TIME_LABEL, scale=alt.Scale(domain=[1.04, -0.04], nice=False))
    y = alt.Y("value:Q", title=SHARE, scale=alt.Scale(domain=[0, 1], nice=False))
    marks = alt.Chart().encode(x=x, color=colour, tooltip=TOOLTIP)
    base = marks.transform_filter(alt.FieldValidPredicate(field="value", valid=True))
    data = alt.InlineData([*shares, *moments])
    drawn = alt.layer(
        base.mark_area(opacity=0.13).encode(y=alt.Y("low:Q", title=SHARE), y2="high:Q"),
        base.mark_line(strokeWidth=2).encode(y=y),
        base.mark_point(filled=True, size=28).encode(y=y),
        alt.Chart().mark_rule(color=GREY, strokeDash=[2, 3]).encode(y=alt.datum(0.5)),
        marks.transform_filter(alt.FieldValidPredicate(field="moment", valid=True))
        .mark_point(filled=True, shape="diamond", size=110)
        .encode(y="moment:Q"),
        data=data,
    ).properties(width=230, height=180)
    order = list(dict.fromkeys(one.attribute for one in decisions))
    return drawn.facet(
        facet=alt.Facet("attribute:N", title=None, sort=order), columns=3
    ).resolve_axis(x="independent")
