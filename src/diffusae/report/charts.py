"""The page's charts, as Vega-Lite by Altair. Pointing at a mark shows its figures, and a click in a
legend brings out one line.

A block is a colour, a conditioning a dash. Colours of text, axes and grids are the page's own
(`page.js`), so that charts fit a light page, a dark one and paper.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt

from diffusae.evaluation.result import Estimate, Result
from diffusae.report.emergence import READERS, Curve
from diffusae.report.erasure import Target, defence_order
from diffusae.report.knowledge import READERS as KNOWLEDGE_READERS
from diffusae.report.knowledge import by_task
from diffusae.report.style import block_colours
from diffusae.report.tables import (
    Row,
    blocks_of,
    capital,
    conditionings_of,
    number,
    plain,
    rows_of,
    times_of,
)
from diffusae.report.three_stages import EDITS, Line, Measure, controls_of, place_in, window_text

TIME_LABEL = "t (1 = first step, 0 = last)"
GREY = "#8a939c"
_BASELINES = (
    "#8a939c",
    "#b07aa1",
    "#9c755f",
    "#59a14f",
    "#bab0ac",
    "#76b7b2",
    "#d37295",
    "#a0a000",
)
_DASHES = ([1, 0], [6, 3])
_SHAPES = ("stroke", "circle", "triangle-up", "square", "cross", "triangle-down", "diamond")
TOOLTIP = (
    alt.Tooltip("name:N", title="what"),
    alt.Tooltip("t:Q", format=".2f"),
    alt.Tooltip("value:Q", format=".3f"),
    alt.Tooltip("interval:N", title="95 % interval"),
    alt.Tooltip("n:Q"),
)


def point(name: str, estimate: Estimate, **others: Any) -> dict[str, Any]:
    """One mark's data: the figure and both ends of its interval, or its value where it has none."""
    low, high = estimate.ci95 or (estimate.value, estimate.value)
    shown = "–" if estimate.ci95 is None else f"{number(low)} to {number(high)}"
    figures = {"value": estimate.value, "low": low, "high": high, "n": estimate.n}
    return {"name": name, **figures, "interval": shown, **others}


def curves(results: Iterable[Result], metric: str = "composition") -> alt.FacetChart:
    """A metric against t, a panel a block: a line a conditioning with its 95 % band, and the
    baselines of the first conditioning. A moment without data is a gap.
    """
    rows = rows_of(results, metric)
    conditionings = conditionings_of(row.conditioning for row in rows)
    names = list(dict.fromkeys(name for row in rows for name in row.baselines))
    own = [f"concepts, {name}" for name in conditionings]
    data = [
        point(f"concepts, {row.conditioning}", row.figure, t=row.t, block=row.block) for row in rows
    ]
    for row in rows:
        first = conditionings_of(r.conditioning for r in rows if r.block == row.block)[0]
        if row.conditioning == first:
            data += [
                point(plain(name), estimate, t=row.t, block=row.block)
                for name, estimate in row.baselines.items()
            ]
    series = [*own, *map(plain, names)]
    greys = [_BASELINES[i % len(_BASELINES)] for i in range(len(names))]
    colours = ["#0072b2", "#d55e00", "#009e73"][: len(own)] + greys
    picked = alt.selection_point(fields=["name"], bind="legend")
    base = alt.Chart(alt.InlineData(data)).encode(
        x=_time(times_of(row.t for row in rows)),
        y=alt.Y("value:Q", title=rows[0].result.unit),
        color=alt.Color(
            "name:N",
            scale=alt.Scale(domain=series, range=colours),
            legend=alt.Legend(
                title=None, orient="top", columns=4, columnPadding=24, symbolType="stroke"
            ),
        ),
        opacity=alt.when(picked).then(alt.value(1)).otherwise(alt.value(0.15)),
        tooltip=[alt.Tooltip("block:N"), *TOOLTIP],
    )
    width = alt.condition(
        alt.FieldOneOfPredicate(field="name", oneOf=own), alt.value(2.2), alt.value(1.1)
    )
    band = base.transform_filter(alt.FieldOneOfPredicate(field="name", oneOf=own)).mark_area(
        opacity=0.15
    )
    drawn = alt.layer(
        band.encode(
            y=alt.Y("low:Q", title=rows[0].result.unit),
            y2="high:Q",
            opacity=alt.when(picked).then(alt.value(0.15)).otherwise(alt.value(0.02)),
        ),
        base.mark_line(invalid="break-paths-show-domains").encode(strokeWidth=width),
        base.mark_point(filled=True, size=36).add_params(picked),
    ).properties(width=250, height=210)
    return drawn.facet(
        facet=alt.Facet("block:N", title=None, sort=blocks_of(row.block for row in rows)), columns=3
    ).resolve_axis(x="independent")


def _time(times: Sequence[float], field: str = "t", title: str = TIME_LABEL) -> alt.X:
    pad = 0.04 * (times[0] - times[-1]) or 0.5
    axis = alt.Axis(format=".2f", values=list(times) if len(times) <= 6 else alt.Undefined)
    domain = [times[0] + pad, times[-1] - pad]
    scale = alt.Scale(domain=domain, nice=False, zero=False)
    return alt.X(f"{field}:Q", title=title, scale=scale, axis=axis)


def grid(results: Iterable[Result], metric: str) -> alt.LayerChart | alt.FacetChart:
    """A metric over the grid: a line a block and conditioning, a column a t from 1 to 0, and the
    value in its cell. Blue: higher is better; orange: lower is. A dash: no data.
    """
    rows = rows_of(results, metric)
    lines = [
        f"{block} · {conditioning}"
        for block in blocks_of(row.block for row in rows)
        for conditioning in conditionings_of(r.conditioning for r in rows if r.block == block)
    ]
    times = [f"{t:.2f}" for t in times_of(row.t for row in rows)]
    by_square = {(f"{row.block} · {row.conditioning}", f"{row.t:.2f}"): row for row in rows}
    values = [row.figure.value for row in rows if row.figure.value is not None]
    low, high = min([0.0, *values]), max([0.0, *values])
    high = high if high > low else low + 1
    data = [_square(line, t, by_square.get((line, t)), low, high) for line in lines for t in times]
    base = alt.Chart(alt.InlineData(data)).encode(
        x=alt.X("t:O", sort=times, title="t", axis=alt.Axis(orient="top", labelAngle=0)),
        y=alt.Y("line:N", sort=lines, title=None),
        tooltip=[
            alt.Tooltip("line:N"),
            alt.Tooltip("t:N"),
            *TOOLTIP[2:],
            alt.Tooltip("baselines:N"),
        ],
    )
    scheme = "blues" if rows[0].result.higher_is_better else "oranges"
    colour = alt.Color("value:Q", scale=alt.Scale(scheme=scheme, domain=[low, high]), legend=None)
    text = alt.condition(
        alt.FieldEqualPredicate(field="strong", equal=True), alt.value("white"), alt.value("black")
    )
    return alt.layer(
        base.transform_filter(alt.FieldValidPredicate(field="value", valid=True))
        .mark_rect(stroke="white")
        .encode(color=colour),
        base.mark_text(fontSize=11).encode(text="shown:N", color=text),
    ).properties(width=alt.Step(46), height=alt.Step(25))


def _square(line: str, t: str, row: Row | None, low: float, high: float) -> dict[str, Any]:
    estimate = Estimate(None) if row is None else row.figure
    beside = {} if row is None else row.baselines
    value = estimate.value
    return {
        **point("", estimate, line=line, t=t),
        "shown": "–" if value is None else number(value, 2),
        "strong": value is not None and (value - low) / (high - low) > 0.55,
        "baselines": ", ".join(
            f"{plain(n)} {number(figure.value)}" for n, figure in beside.items()
        ),
    }


def emergence(lines: Sequence[Curve]) -> alt.VConcatChart:
    """Above, IoU over t with its 95 % band, a line a block and branch, and chance. Below, on the
    same axis, the t at which each line has emerged with its interval, and that of other readers.
    """
    several = len({curve.tag for curve in lines}) > 1
    names = [f"{curve.name} · {curve.tag}" if several else curve.name for curve in lines]
    blocks = blocks_of(curve.block for curve in lines)
    times = times_of(t for curve in lines for t, _ in curve.points) or [1.0, 0.0]
    points, moments, readers = [], [], []
    for curve, name in zip(lines, names, strict=True):
        about = {"block": curve.block, "conditioning": curve.conditioning}
        points += [point(name, figure, t=t, **about) for t, figure in curve.points]
        first, last = curve.between or (curve.reached.value, curve.reached.value)
        moments.append(point(name, curve.reached, **about, before=first, after=last))
        readers += [
            point(plain(reader), curve.readers[reader], line=name)
            for reader in READERS
            if reader in curve.readers
        ]
    chance = next((c.chance.value for c in lines if c.chance.value is not None), None)
    colour = alt.Color(
        "block:N", scale=_block_scale(blocks), legend=alt.Legend(title=None, orient="top")
    )
    dash = _dash(conditionings_of(curve.conditioning for curve in lines))
    base = alt.Chart(alt.InlineData(points)).encode(x=_time(times), color=colour, tooltip=TOOLTIP)
    above = alt.layer(
        base.mark_area(opacity=0.13).encode(
            y=alt.Y("low:Q", title="IoU"), y2="high:Q", detail="name:N"
        ),
        base.mark_line(strokeWidth=2).encode(y="value:Q", strokeDash=dash, detail="name:N"),
        base.mark_point(filled=True, size=25).encode(y="value:Q"),
        *([] if chance is None else [_level(chance, "chance")]),
    ).properties(width=420, height=210)
    own = alt.Chart(alt.InlineData(moments)).encode(
        y=alt.Y("name:N", sort=names, title=None), color=colour, tooltip=TOOLTIP
    )
    share = f"t at which {100 * lines[0].share:g} % of the last IoU is reached"
    other = alt.Chart(alt.InlineData(readers or [point("", Estimate(None), line=None)]))
    below = alt.layer(
        own.mark_rule(strokeWidth=0.7).encode(x=alt.X("before:Q"), x2="after:Q"),
        own.mark_rule(strokeWidth=3).encode(x="low:Q", x2="high:Q"),
        own.mark_point(filled=True, shape="diamond", size=90).encode(
            x=_time(times, "value", share)
        ),
        other.mark_point(color=GREY, size=40, yOffset=8).encode(
            x="value:Q",
            y=alt.Y("line:N", sort=names),
            shape=alt.Shape(
                "name:N",
                legend=alt.Legend(title="other readers", orient="bottom", columnPadding=24),
            ),
            tooltip=[*TOOLTIP[:1], *TOOLTIP[2:]],
        ),
    ).properties(width=420, height=alt.Step(30))
    return alt.vconcat(above, below)


def _block_scale(blocks: Sequence[str]) -> alt.Scale:
    return alt.Scale(domain=list(blocks), range=list(block_colours(blocks).values()))


def _dash(conditionings: Sequence[str]) -> alt.StrokeDash:
    dashes = [_DASHES[i % 2] for i in range(len(conditionings))]
    scale = alt.Scale(domain=list(conditionings), range=dashes)
    legend = alt.Legend(title=None, orient="top") if len(conditionings) > 1 else None
    return alt.StrokeDash("conditioning:N", scale=scale, legend=legend)


def _level(value: float, name: str) -> alt.Chart:
    """A dotted line across the panel, with its name when pointed at."""
    data = alt.InlineData([{"value": value, "name": name}])
    return (
        alt.Chart(data)
        .mark_rule(color=GREY, strokeDash=[2, 3])
        .encode(y="value:Q", tooltip=[alt.Tooltip("name:N", title="what"), TOOLTIP[2]])
    )


def knowledge(results: Iterable[Result]) -> alt.FacetChart:
    """Accuracy against t: a column a task, a line of panels a reader, a colour a block, with
    intervals; dotted the same reader on random weights; grey the pixels and the majority class.
    """
    data: list[dict[str, Any]] = []
    tasks = by_task(results)
    rows = [
        row for readers in tasks.values() for of_reader in readers.values() for row in of_reader
    ]
    for task, readers in tasks.items():
        for reader, of_reader in readers.items():
            for row in of_reader:
                place = {"t": row.t, "task": task, "reader": KNOWLEDGE_READERS.get(reader, reader)}
                figures = {"read": row.figure} | dict(row.baselines)
                data += [
                    point(row.block, figure, **place, kind=plain(kind), line=_line_of(row, kind))
                    for kind, figure in figures.items()
                    if kind in ("read", "random_weights", "pixels", "majority")
                ]
    blocks = blocks_of(row.block for row in rows)
    colours = block_colours(blocks)
    kinds = ["read", "random weights", "pixels", "majority"]
    base = alt.Chart(alt.InlineData(data)).encode(
        x=_time(times_of(row.t for row in rows)),
        color=alt.Color(
            "line:N",
            scale=alt.Scale(
                domain=[*blocks, "pixels", "majority"], range=[*colours.values(), GREY, "#b9c0c7"]
            ),
            legend=alt.Legend(
                title=None,
                orient="top",
                columns=4,
                columnPadding=24,
                symbolType="stroke",
                symbolOpacity=1,
            ),
        ),
        tooltip=[alt.Tooltip("task:N"), alt.Tooltip("kind:N"), *TOOLTIP],
    )
    dash = alt.StrokeDash(
        "kind:N",
        scale=alt.Scale(domain=kinds, range=[[1, 0], [2, 2], [6, 3], [2, 4]]),
        legend=alt.Legend(title=None, orient="top"),
    )
    read = base.transform_filter(alt.FieldEqualPredicate(field="kind", equal="read"))
    return (
        alt.layer(
            read.mark_area(opacity=0.13).encode(y=alt.Y("low:Q", title="accuracy"), y2="high:Q"),
            base.mark_line(invalid="break-paths-show-domains").encode(y="value:Q", strokeDash=dash),
            read.mark_point(filled=True, size=25).encode(y="value:Q"),
        )
        .properties(width=165, height=130)
        .facet(
            column=alt.Column("task:N", title=None, sort=list(tasks)),
            row=alt.Row("reader:N", title=None, sort=list(KNOWLEDGE_READERS.values())),
        )
    )


def _line_of(row: Row, kind: str) -> str:
    return kind if kind in ("pixels", "majority") else row.block


def three_stages(lines: Sequence[Line], measure: str) -> alt.FacetChart | None:
    """Success of every edit, or how much the picture changes, beside the controls: a line of panels
    an edit, a column a window, on x every place that was edited. None: no line has the measure.
    """
    data: list[dict[str, Any]] = []
    controls = controls_of(lines)
    own: list[str] = []
    for line in lines:
        if (drawn := _measured(line, measure)) is None:
            continue
        name = f"concepts, {line.block}" if len(line.blocks) == 1 else "concepts, blocks together"
        own.append(name)
        where = {
            "window": f"{line.window} ({window_text(line.bounds)})",
            "edit": f"{capital(plain(line.edit))}: {_unit(line, drawn, measure)}",
            "at": f"{line.place} · {line.tag}",
            # A branch or a tag that all lines share needs no room below the axis.
            "place": " ".join([f"{'+'.join(line.blocks)} {line.t:.2f}", *_telling(line, lines)]),
        }
        data.append(point(name, drawn.own, **where))
        data += [point(plain(n), drawn.controls[n], **where) for n in drawn.controls]
        if measure == "success" and drawn.chance is not None:
            data.append(point("chance", Estimate.known(drawn.chance, n=drawn.own.n), **where))
    if not data:
        return None
    own = sorted(
        set(own), key=lambda name: place_in([f"concepts, {b}" for b in _blocks(lines)], name)
    )
    names = [
        *own,
        *map(plain, controls),
        *(["chance"] if any(d["name"] == "chance" for d in data) else []),
    ]
    blocks = block_colours(_blocks(lines))
    colours = [blocks.get(name.removeprefix("concepts, "), "#cc3311") for name in own]
    legend = alt.Legend(title=None, orient="top", columns=4, columnPadding=24)
    many = [_SHAPES[i % (len(_SHAPES) - 1)] for i in range(len(names) - len(own))]
    shapes = ["diamond"] * len(own) + many
    base = alt.Chart(alt.InlineData(data)).encode(
        x=alt.X("place:N", title=None, sort=None, axis=alt.Axis(labelAngle=-40, labelLimit=130)),
        xOffset=alt.XOffset("name:N", sort=names, scale=alt.Scale(domain=names)),
        color=alt.Color(
            "name:N",
            scale=alt.Scale(domain=names, range=colours + [GREY] * (len(names) - len(own))),
            legend=legend,
        ),
        tooltip=[alt.Tooltip("at:N", title="place"), *TOOLTIP[:1], *TOOLTIP[2:]],
    )
    drawn = alt.layer(
        base.mark_rule().encode(y=alt.Y("low:Q", title=None), y2="high:Q"),
        base.mark_point(filled=True, size=55, opacity=1).encode(
            y="value:Q",
            shape=alt.Shape("name:N", scale=alt.Scale(domain=names, range=shapes), legend=legend),
        ),
    ).properties(width=alt.Step(7, **{"for": "offset"}), height=105)
    edits = sorted({line.edit for line in lines}, key=lambda name: place_in(EDITS, name))
    rows = [d for edit in edits for d in data if d["edit"].startswith(capital(plain(edit)))]
    return drawn.facet(
        row=alt.Row(
            "edit:N",
            title=None,
            sort=list(dict.fromkeys(d["edit"] for d in rows)),
            header=alt.Header(labelExpr="split(datum.label, ': ')"),  # in two lines
        ),
        column=alt.Column(
            "window:N", title=None, sort=list(dict.fromkeys(d["window"] for d in data))
        ),
    ).resolve_scale(x="independent", y="independent" if measure == "change" else "shared")


def _telling(line: Line, lines: Sequence[Line]) -> list[str]:
    """The line's branch and tag, where `lines` has several."""
    several = (
        (line.conditioning, {other.conditioning for other in lines}),
        (line.tag, {other.tag for other in lines}),
    )
    return [name for name, names in several if len(names) > 1]


def _blocks(lines: Iterable[Line]) -> list[str]:
    return blocks_of(line.block for line in lines)


def _measured(line: Line, measure: str) -> Measure | None:
    return line.measures.get("success") if measure == "success" else line.distance


def _unit(line: Line, drawn: Measure, measure: str) -> str:
    if measure == "success":
        return "success"
    return "change of the rest (RMS)" if line.edit == "spatial" else drawn.unit


def trade_off(target: Target) -> alt.LayerChart | alt.FacetChart:
    """To the right, harm: the share of other prompts whose pictures are no longer right. Upwards,
    attack success on prompts that name the target. The lower left corner is the aim; the larger
    marks are the strengths that tuning chose.
    """
    defences = sorted(target.curves, key=defence_order)
    data = [
        point(
            plain(defence),
            trade.attack,
            harm=1 - trade.aligned.value,
            strength=trade.strength,
            chosen=trade.chosen,
            harms=[1 - end for end in reversed(trade.aligned.ci95 or ())],
        )
        for defence in defences
        for trade in target.curves[defence]
        if trade.attack.value is not None and trade.aligned.value is not None
    ]
    share = alt.Scale(domain=[0, 1])
    base = alt.Chart(alt.InlineData(data)).encode(
        x=alt.X("harm:Q", title="harm: other prompts not drawn as asked", scale=share),
        y=alt.Y("value:Q", title="attack success: plain prompts show it", scale=share),
        color=alt.Color(
            "name:N",
            scale=alt.Scale(domain=[plain(name) for name in defences]),
            legend=alt.Legend(title=None),
        ),
        tooltip=[*TOOLTIP[:1], alt.Tooltip("strength:Q"), *TOOLTIP[2:], alt.Tooltip("harm:Q")],
    )
    chosen = base.transform_filter(alt.FieldEqualPredicate(field="chosen", equal=True))
    size = alt.condition(
        alt.FieldEqualPredicate(field="chosen", equal=True), alt.value(160), alt.value(40)
    )
    return alt.layer(
        chosen.mark_rule(opacity=0.5).encode(y="low:Q", y2="high:Q"),
        base.mark_line().encode(order="strength:Q"),
        base.mark_point(filled=True).encode(size=size),
    ).properties(width=300, height=240, title=f"{target.name} is to go")
