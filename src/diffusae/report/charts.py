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
from diffusae.report.three_stages import EDITS, Line, controls_of, place_in, window_text

TIME_LABEL = "t (1 = first step, 0 = last)"
GREY = "#8a939c"
_BASELINES = (GREY, "#b07aa1", "#9c755f", "#59a14f", "#bab0ac", "#76b7b2", "#d37295", "#a0a000")
_DASHES = ([1, 0], [6, 3])
_SHAPES = ("stroke", "circle", "triangle-up", "square", "cross", "triangle-down", "diamond")
_ABOVE: dict[str, Any] = {"title": None, "orient": "top"}
_WIDE: dict[str, Any] = {**_ABOVE, "columns": 4, "columnPadding": 24}
"""Legends of a few names and of many, above the panels."""
TOOLTIP = (
    alt.Tooltip("name:N", title="what"),
    alt.Tooltip("t:Q", format=".2f"),
    alt.Tooltip("value:Q", format=".3f"),
    alt.Tooltip("interval:N", title="95 % interval"),
    alt.Tooltip("counted:N", title="n"),
)


def point(name: str, estimate: Estimate, **others: Any) -> dict[str, Any]:
    """One mark's data: the figure and both ends of its interval, or its value where it has none."""
    low, high = estimate.ci95 or (estimate.value, estimate.value)
    shown = "–" if estimate.ci95 is None else f"{number(low)} to {number(high)}"
    figures = {
        "value": estimate.value,
        "low": low,
        "high": high,
        "n": estimate.n,
        "counted": estimate.counted,
    }
    return {"name": name, **figures, "interval": shown, **others}


def curves(results: Iterable[Result], metric: str = "composition") -> alt.FacetChart:
    """A metric against t, a panel a block: a line a conditioning with its 95 % band, and the
    baselines of the first conditioning. A moment without data is a gap.
    """
    rows = rows_of(results, metric)
    blocks = blocks_of(row.block for row in rows)
    branches = {b: conditionings_of(r.conditioning for r in rows if r.block == b) for b in blocks}
    own = [f"concepts, {n}" for n in conditionings_of(row.conditioning for row in rows)]
    names = list(dict.fromkeys(name for row in rows for name in row.baselines))
    data = [
        point(f"concepts, {row.conditioning}", row.figure, t=row.t, block=row.block) for row in rows
    ]
    data += [
        point(plain(name), estimate, t=row.t, block=row.block)
        for row in rows
        if row.conditioning == branches[row.block][0]
        for name, estimate in row.baselines.items()
    ]
    colours = ["#0072b2", "#d55e00", "#009e73"][: len(own)]
    colours += [_BASELINES[i % len(_BASELINES)] for i in range(len(names))]
    picked, unit = alt.selection_point(fields=["name"], bind="legend"), rows[0].result.unit
    base = _chart(
        data,
        x=_time(times_of(row.t for row in rows)),
        y=alt.Y("value:Q", title=unit),
        color=_colour("name", [*own, *map(plain, names)], colours, **_WIDE, symbolType="stroke"),
        opacity=_where(picked, 1, 0.15),
        tooltip=[alt.Tooltip("block:N"), *TOOLTIP],
    )
    concepts = alt.FieldOneOfPredicate(field="name", oneOf=own)
    band = base.transform_filter(concepts).mark_area(opacity=0.15)
    line = base.mark_line(invalid="break-paths-show-domains")
    drawn = alt.layer(
        band.encode(y=alt.Y("low:Q", title=unit), y2="high:Q", opacity=_where(picked, 0.15, 0.02)),
        line.encode(strokeWidth=_where(concepts, 2.2, 1.1)),
        base.mark_point(filled=True, size=36).add_params(picked),
    ).properties(width=250, height=210)
    facet = alt.Facet("block:N", title=None, sort=blocks)
    return drawn.facet(facet=facet, columns=3).resolve_axis(x="independent")


def _chart(data: Sequence[dict[str, Any]], **encodings: Any) -> alt.Chart:
    return alt.Chart(alt.InlineData(data)).encode(**encodings)


def _colour(field: str, names: Sequence[str], colours: Sequence[str], **legend: Any) -> alt.Color:
    scale = alt.Scale(domain=list(names), range=list(colours))
    return alt.Color(f"{field}:N", scale=scale, legend=alt.Legend(**legend))


def _is(field: str, value: Any) -> alt.FieldEqualPredicate:
    return alt.FieldEqualPredicate(field=field, equal=value)


def _where(condition: Any, yes: Any, no: Any) -> Any:
    """One value for the marks of which the condition holds, another for the rest."""
    return alt.condition(condition, alt.value(yes), alt.value(no))


def _band(base: alt.Chart, title: str, **encodings: Any) -> alt.Chart:
    """The area of the intervals."""
    low = alt.Y("low:Q", title=title)
    return base.mark_area(opacity=0.13).encode(y=low, y2="high:Q", **encodings)


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
    what, baselines = (alt.Tooltip(f"{name}:N") for name in ("line", "baselines"))
    base = _chart(
        data,
        x=alt.X("t:O", sort=times, title="t", axis=alt.Axis(orient="top", labelAngle=0)),
        y=alt.Y("line:N", sort=lines, title=None),
        tooltip=[what, alt.Tooltip("t:N"), *TOOLTIP[2:], baselines],
    )
    scheme = "blues" if rows[0].result.higher_is_better else "oranges"
    colour = alt.Color("value:Q", scale=alt.Scale(scheme=scheme, domain=[low, high]), legend=None)
    text = _where(_is("strong", True), "white", "black")
    filled = base.transform_filter(alt.FieldValidPredicate(field="value", valid=True))
    return alt.layer(
        filled.mark_rect(stroke="white").encode(color=colour),
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
    colours = block_colours(blocks_of(curve.block for curve in lines))
    colour = _colour("block", list(colours), list(colours.values()), **_ABOVE)
    branches = conditionings_of(curve.conditioning for curve in lines)
    dash = _dash("conditioning", branches, [_DASHES[i % 2] for i in range(len(branches))])
    base = _chart(points, x=_time(times), color=colour, tooltip=TOOLTIP)
    above = alt.layer(
        _band(base, "IoU", detail="name:N"),
        base.mark_line(strokeWidth=2).encode(y="value:Q", strokeDash=dash, detail="name:N"),
        base.mark_point(filled=True, size=25).encode(y="value:Q"),
        *([] if chance is None else [_level(chance, "chance")]),
    ).properties(width=420, height=210)
    y = alt.Y("name:N", sort=names, title=None)
    own = _chart(moments, y=y, color=colour, tooltip=TOOLTIP)
    share = f"t at which {100 * lines[0].share:g} % of the last IoU is reached"
    legend = alt.Legend(title="other readers", orient="bottom", columnPadding=24)
    other = _chart(
        readers or [point("", Estimate(None), line=None)],
        x="value:Q",
        y=alt.Y("line:N", sort=names),
        shape=alt.Shape("name:N", legend=legend),
        tooltip=[*TOOLTIP[:1], *TOOLTIP[2:]],
    )
    below = alt.layer(
        own.mark_rule(strokeWidth=0.7).encode(x=alt.X("before:Q"), x2="after:Q"),
        own.mark_rule(strokeWidth=3).encode(x="low:Q", x2="high:Q"),
        own.mark_point(filled=True, shape="diamond", size=90).encode(
            x=_time(times, "value", share)
        ),
        other.mark_point(color=GREY, size=40, yOffset=8),
    ).properties(width=420, height=alt.Step(30))
    return alt.vconcat(above, below)


def _dash(field: str, names: Sequence[str], dashes: Sequence[list[int]]) -> alt.StrokeDash:
    """One dash a name; a single name needs no legend."""
    scale = alt.Scale(domain=list(names), range=list(dashes))
    legend = alt.Legend(**_ABOVE) if len(names) > 1 else None
    return alt.StrokeDash(f"{field}:N", scale=scale, legend=legend)


def _level(value: float, name: str) -> alt.Chart:
    """A dotted line across the panel, with its name when pointed at."""
    shown = [alt.Tooltip("name:N", title="what"), TOOLTIP[2]]
    line = _chart([{"value": value, "name": name}], y="value:Q", tooltip=shown)
    return line.mark_rule(color=GREY, strokeDash=[2, 3])


def knowledge(results: Iterable[Result]) -> alt.FacetChart:
    """Accuracy against t: a column a task, a line of panels a reader, a colour a block, with
    intervals; dotted the same reader on random weights; grey the pixels and the majority class.
    """
    tasks = by_task(results)
    rows = [
        (task, KNOWLEDGE_READERS.get(reader, reader), row)
        for task, readers in tasks.items()
        for reader, of_reader in readers.items()
        for row in of_reader
    ]
    kinds = ("read", "random_weights", "pixels", "majority")
    shared = {"pixels": GREY, "majority": "#b9c0c7"}
    data = [
        point(
            row.block,
            figure,
            t=row.t,
            task=task,
            reader=reader,
            kind=plain(kind),
            line=kind if kind in shared else row.block,
        )
        for task, reader, row in rows
        for kind, figure in ({"read": row.figure} | dict(row.baselines)).items()
        if kind in kinds
    ]
    colours = block_colours(blocks_of(row.block for _, _, row in rows)) | shared
    strokes = {"symbolType": "stroke", "symbolOpacity": 1}
    base = _chart(
        data,
        x=_time(times_of(row.t for _, _, row in rows)),
        color=_colour("line", list(colours), list(colours.values()), **_WIDE, **strokes),
        tooltip=[alt.Tooltip("task:N"), alt.Tooltip("kind:N"), *TOOLTIP],
    )
    dash = _dash("kind", [plain(kind) for kind in kinds], [[1, 0], [2, 2], [6, 3], [2, 4]])
    read = base.transform_filter(_is("kind", "read"))
    line = base.mark_line(invalid="break-paths-show-domains")
    drawn = alt.layer(
        _band(read, "accuracy"),
        line.encode(y="value:Q", strokeDash=dash),
        read.mark_point(filled=True, size=25).encode(y="value:Q"),
    ).properties(width=165, height=130)
    return drawn.facet(
        column=alt.Column("task:N", title=None, sort=list(tasks)),
        row=alt.Row("reader:N", title=None, sort=list(KNOWLEDGE_READERS.values())),
    )


def three_stages(lines: Sequence[Line], measure: str) -> alt.FacetChart | None:
    """Success of every edit, or how much the picture changes, beside the controls: a line of panels
    an edit, a column a window, on x every place that was edited. None: no line has the measure.
    """
    data = [drawn for line in lines for drawn in _edited(line, measure, lines)]
    if not data:
        return None
    present = {drawn["name"] for drawn in data}
    blocks = block_colours(blocks_of(line.block for line in lines))
    of_blocks = {f"concepts, {block}": colour for block, colour in blocks.items()}
    own = {n: c for n, c in {**of_blocks, _TOGETHER: "#cc3311"}.items() if n in present}
    controls = [*map(plain, controls_of(lines)), *({"chance"} & present)]
    names = [*own, *controls]
    shapes = ["diamond"] * len(own)
    shapes += [_SHAPES[i % (len(_SHAPES) - 1)] for i in range(len(controls))]
    shape_scale = alt.Scale(domain=names, range=shapes)
    base = _chart(
        data,
        x=alt.X("place:N", title=None, sort=None, axis=alt.Axis(labelAngle=-40, labelLimit=130)),
        xOffset=alt.XOffset("name:N", sort=names, scale=alt.Scale(domain=names)),
        color=_colour("name", names, [*own.values(), *[GREY] * len(controls)], **_WIDE),
        tooltip=[alt.Tooltip("at:N", title="place"), *TOOLTIP[:1], *TOOLTIP[2:]],
    )
    drawn = alt.layer(
        base.mark_rule().encode(y=alt.Y("low:Q", title=None), y2="high:Q"),
        base.mark_point(filled=True, size=55, opacity=1).encode(
            y="value:Q", shape=alt.Shape("name:N", scale=shape_scale, legend=alt.Legend(**_WIDE))
        ),
    ).properties(width=alt.Step(7, **{"for": "offset"}), height=105)
    edits = sorted({line.edit for line in lines}, key=lambda name: place_in(EDITS, name))
    rows = [d["edit"] for e in edits for d in data if d["edit"].startswith(capital(plain(e)))]
    in_two_lines = alt.Header(labelExpr="split(datum.label, ': ')")
    windows = list(dict.fromkeys(d["window"] for d in data))
    return drawn.facet(
        row=alt.Row("edit:N", title=None, sort=list(dict.fromkeys(rows)), header=in_two_lines),
        column=alt.Column("window:N", title=None, sort=windows),
    ).resolve_scale(x="independent", y="independent" if measure == "change" else "shared")


_TOGETHER = "concepts, blocks together"


def _edited(line: Line, measure: str, lines: Sequence[Line]) -> list[dict[str, Any]]:
    """The marks of one line; none where it lacks the measure."""
    success = measure == "success"
    drawn = line.measures.get("success") if success else line.distance
    if drawn is None:
        return []
    change = "change of the rest (RMS)" if line.edit == "spatial" else drawn.unit
    where = {
        "window": f"{line.window} ({window_text(line.bounds)})",
        "edit": f"{capital(plain(line.edit))}: {'success' if success else change}",
        "at": f"{line.place} · {line.tag}",
        # A branch or a tag that all lines share needs no room below the axis.
        "place": " ".join([f"{'+'.join(line.blocks)} {line.t:.2f}", *_telling(line, lines)]),
    }
    figures = {f"concepts, {line.block}" if len(line.blocks) == 1 else _TOGETHER: drawn.own}
    figures |= {plain(name): figure for name, figure in drawn.controls.items()}
    if success and drawn.chance is not None:
        figures["chance"] = Estimate.known(drawn.chance, n=drawn.own.n)
    return [point(name, figure, **where) for name, figure in figures.items()]


def _telling(line: Line, lines: Sequence[Line]) -> list[str]:
    """The line's branch and tag, where `lines` has several."""
    several = (
        (line.conditioning, {other.conditioning for other in lines}),
        (line.tag, {other.tag for other in lines}),
    )
    return [name for name, names in several if len(names) > 1]


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
    base = _chart(
        data,
        x=alt.X("harm:Q", title="harm: other prompts not drawn as asked", scale=share),
        y=alt.Y("value:Q", title="attack success: plain prompts show it", scale=share),
        color=alt.Color(
            "name:N",
            scale=alt.Scale(domain=[plain(name) for name in defences]),
            legend=alt.Legend(title=None),
        ),
        tooltip=[*TOOLTIP[:1], alt.Tooltip("strength:Q"), *TOOLTIP[2:], alt.Tooltip("harm:Q")],
    )
    chosen = _is("chosen", True)
    interval = base.transform_filter(chosen).mark_rule(opacity=0.5)
    return alt.layer(
        interval.encode(y="low:Q", y2="high:Q"),
        base.mark_line().encode(order="strength:Q"),
        base.mark_point(filled=True).encode(size=_where(chosen, 160, 40)),
    ).properties(width=300, height=240, title=f"{target.name} is to go")


def activations(edges: Sequence[float], counts: Sequence[int]) -> alt.Chart:
    """How often values of a latent lie between one edge and the next, on a logarithmic axis.

    Args:
        edges: of the bins, ascending, above 0, one more than counts; in data units.
        counts: positions.
    """
    bins = zip(edges[:-1], edges[1:], counts, strict=True)
    data = [{"low": low, "high": high, "count": count} for low, high, count in bins]
    scale = alt.Scale(type="log", domain=[edges[0], edges[-1]], nice=False)
    base = alt.Chart(alt.InlineData(data)).mark_rect(color="#0072b2", stroke="white")
    return base.encode(
        x=alt.X("low:Q", title="value where it is active, in data units", scale=scale),
        x2="high:Q",
        y=alt.Y("count:Q", title="positions"),
        y2=alt.datum(0),
        tooltip=[
            alt.Tooltip("low:Q", title="from", format=".3g"),
            alt.Tooltip("high:Q", title="to", format=".3g"),
            alt.Tooltip("count:Q", title="positions"),
        ],
    ).properties(width="container", height=160)
