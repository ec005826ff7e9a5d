from __future__ import annotations

from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import same_color
from matplotlib.lines import Line2D

from diffusae.errors import UserError
from diffusae.evaluation.result import Estimate, Result
from diffusae.report.three_stage_chart import three_stage_chart
from diffusae.report.three_stages import CONTROLS as CONTROL_NAMES
from diffusae.report.three_stages import lines_of, signed, verdicts_of
from report.rows import claimed, figure, staged

CONTROLS = {"no_edit": figure(0.25, (0.1, 0.4), 24), "random_latent": figure(0.3, (0.2, 0.5), 24)}
MIDDLE: dict[str, Any] = {"window": "middle", "bounds": (0.6, 0.2), "t": 0.5}
FINAL: dict[str, Any] = {"window": "final", "bounds": (0.2, 0.0), "t": 0.1}


def rows() -> list[Result]:
    return [
        staged("style", figure(0.6, (0.4, 0.8), 16), **FINAL),
        staged("style", figure(0.9, (0.8, 1.0), 16), blocks=["down", "mid", "up"], **MIDDLE),
        staged("style", figure(0.8, (0.7, 0.9), 16), **MIDDLE),
        staged("style", figure(0.3, (0.2, 0.4), 16), measure="distance", **MIDDLE),
        staged("spatial", figure(0.35, (0.2, 0.5), 24), controls=CONTROLS, chance=0.25, **MIDDLE),
        staged("spatial", figure(0.95, (0.85, 1.0), 20), controls=CONTROLS, chance=0.25),
        staged("spatial", figure(0.05, (0.04, 0.06), 20), measure="distance"),
        staged("spatial", figure(0.75, (0.5, 1.0), 8), controls=CONTROLS, chance=0.25, t=1.0),
    ]


def panels() -> list[Axes]:
    """Of spatial, then style: success, change."""
    return list(three_stage_chart(lines_of(rows())).axes)


def marks(panel: Axes, marker: str) -> list[Line2D]:
    return [line for line in panel.get_lines() if line.get_marker() == marker]


def from_left(panel: Axes, marker: str) -> list[Line2D]:
    return sorted(marks(panel, marker), key=lambda line: float(line.get_xdata()[0]))  # type: ignore[index]


def test_lines_run_from_the_first_window_to_the_last_whatever_the_order_of_the_rows() -> None:
    lines = lines_of(rows()[::-1])
    assert [(line.window, line.edit, line.t, line.together) for line in lines] == [
        ("early", "spatial", 1.0, False),
        ("early", "spatial", 0.8, False),
        ("middle", "spatial", 0.5, False),
        ("middle", "style", 0.5, False),
        ("middle", "style", 0.5, True),
        ("final", "style", 0.1, False),
    ]
    assert lines[4].place == "down + mid + up · t = 0.50 · cond"
    assert set(lines[1].measures) == {"success", "distance"}


def test_every_place_of_every_window_has_its_mark_at_its_value_from_left_to_right() -> None:
    spatial, style = panels()[0], panels()[2]
    own = from_left(spatial, "D")
    assert [float(line.get_ydata()[0]) for line in own] == [0.75, 0.95, 0.35]  # type: ignore[index]
    assert all(same_color(line.get_markerfacecolor(), "#0072b2") for line in own)
    single, together, _ = from_left(style, "D")
    assert same_color(single.get_markerfacecolor(), "#0072b2")
    assert not same_color(
        together.get_markerfacecolor(), "#0072b2"
    )  # blocks together belong to no block
    assert [label.get_text() for label in style.get_xticklabels()] == [
        "down\n1.00",
        "down\n0.80",
        "down\n0.50",
        "3\nblocks\n0.50",
        "down\n0.10",
    ]


def test_controls_stand_beside_the_concepts_with_markers_of_their_own() -> None:
    spatial = panels()[0]
    assert [float(line.get_ydata()[0]) for line in marks(spatial, "o")] == [0.3] * 3  # type: ignore[index]
    places = [float(line.get_xdata()[0]) for marker in "D_o" for line in marks(spatial, marker)]  # type: ignore[index]
    assert len(places) == len(set(places)) == 9


def test_chance_is_drawn_at_every_place_that_has_one_and_named_once() -> None:
    drawn = three_stage_chart(lines_of(rows()))
    spatial, _, style, change = drawn.axes
    dotted = [
        collection for collection in spatial.collections if collection.get_label() == "chance"
    ]
    assert [collection.get_segments()[0][0][1] for collection in dotted] == [0.25] * 3  # type: ignore[attr-defined]
    assert not any(
        collection.get_label() == "chance"
        for panel in (style, change)
        for collection in panel.collections
    )
    named = [
        text.get_text() for text in drawn.legends[0].get_texts() if "chance" in text.get_text()
    ]
    assert named == ["chance 0.25"]


def test_change_is_in_its_own_panel_with_its_own_unit_and_ssim_where_there_is_no_distance() -> None:
    _, spatial, _, style = panels()
    assert (spatial.get_ylabel(), style.get_ylabel()) == (
        "change of the rest\n(RMS)",
        "feature distance",
    )
    assert [float(line.get_ydata()[0]) for line in marks(style, "D")] == [0.3]  # type: ignore[index]
    row = staged("style", figure(0.8, None, 16), measure="similarity", unit="SSIM")
    assert three_stage_chart(lines_of([row])).axes[1].get_ylabel() == "SSIM\n(1: unchanged)"


def test_windows_are_named_with_their_ends_above_the_first_panels_alone() -> None:
    texts = [{text.get_text() for text in panel.texts} for panel in panels()]
    assert {"early\n1 ≥ t ≥ 0.6", "middle\n0.6 ≥ t ≥ 0.2", "final\n0.2 ≥ t ≥ 0"} <= texts[
        0
    ] & texts[1]
    assert not any("early" in text for text in texts[2] | texts[3])


@pytest.mark.parametrize("cells", [1, 4])
def test_nothing_of_the_chart_lies_outside_the_picture_or_on_another_text(cells: int) -> None:
    many = [
        staged(
            edit,
            figure(0.5, (0.4, 0.6), 9),
            controls=CONTROLS,
            chance=0.25,
            **{**window, "t": window["t"] - 0.01 * i},
        )
        for edit in ("spatial", "style", "grain")
        for window in ({"window": "early", "bounds": (1.0, 0.6), "t": 0.8}, MIDDLE, FINAL)
        for i in range(cells)
    ]
    drawn = three_stage_chart(lines_of(many))
    renderer = FigureCanvasAgg(drawn).get_renderer()
    drawn.draw(renderer)
    boxes = [text.get_window_extent(renderer) for panel in drawn.axes for text in panel.texts]
    boxes += [
        label.get_window_extent(renderer)
        for panel in drawn.axes[-2:]
        for label in panel.get_xticklabels()
    ]
    boxes += [panel.yaxis.label.get_window_extent(renderer) for panel in drawn.axes]
    boxes += [text.get_window_extent(renderer) for text in drawn.legends[0].get_texts()]
    for index, box in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0
        assert box.x1 <= drawn.bbox.width and box.y1 <= drawn.bbox.height
        assert not any(box.overlaps(other) for other in boxes[:index])


@pytest.mark.parametrize("blocks", [1, 4])
@pytest.mark.parametrize("controls", [0, 1, 5, 12])
def test_the_legend_lies_inside_the_picture_for_any_number_of_controls(
    controls: int, blocks: int
) -> None:
    names = (*CONTROL_NAMES, *(f"another control, number {i}" for i in range(7)))[:controls]
    beside = dict.fromkeys(names, figure(0.3, (0.2, 0.5), 24))
    many = [
        staged("spatial", figure(0.5, None, 9), controls=beside, chance=0.25, block=f"block_{i}")
        for i in range(blocks)
    ]
    drawn = three_stage_chart(lines_of(many))
    renderer = FigureCanvasAgg(drawn).get_renderer()
    drawn.draw(renderer)
    legend, first = drawn.legends[0].get_window_extent(renderer), drawn.axes[0]
    assert len(drawn.legends[0].get_texts()) == blocks + controls + 1
    assert legend.x0 >= 0 and legend.x1 <= drawn.bbox.width and legend.y1 <= drawn.bbox.height
    assert all(text.get_window_extent(renderer).y1 < legend.y0 for text in first.texts)


def test_a_mark_says_how_the_concepts_stand() -> None:
    standing = {
        "no_edit": "better",
        "random_latent": "worse",
        "neuron": "alike",
        "difference_of_means": "unclear",
    }
    (line,) = lines_of([staged("spatial", figure(0.9, None, 4), standing=standing)])
    assert [line.measures["success"].mark(name) for name in (*standing, "other")] == [
        "▲",
        "▼",
        "=",
        "?",
        "",
    ]


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        (figure(0.7, (0.5, 0.9), 3), "+0.70 [+0.50, +0.90]"),
        (figure(-0.004, (-0.2, 0.001), 3), "0.00 [-0.20, 0.00]"),
        (figure(0.5, None, 1), "+0.50"),
        (figure(None), "no data"),
    ],
)
def test_a_difference_carries_its_sign(difference: dict[str, Any], text: str) -> None:
    assert signed(Estimate.from_json(difference)) == text


def test_a_verdict_counts_the_cells_of_each_kind() -> None:
    verdicts = verdicts_of(
        [
            claimed(True, [True, False, None]),
            claimed(False, [False, False]),
            claimed(None, [None]),
            claimed(None, []),
        ]
    )
    assert [verdict.verdict for verdict in verdicts] == [
        "holds (3 cells: 1 above the controls, 1 not above them, 1 undecided)",
        "does not hold (2 cells: 2 not above them)",
        "undecided (1 cell: 1 undecided)",
        "not evaluated",
    ]


def test_a_cell_without_data_says_so_and_nothing_else() -> None:
    claim = claimed(None, [None])
    claim["cells"][0] |= figure(None)
    assert verdicts_of([claim])[0].evidence == ["down · t = 0.80 · cond: no data"]


def test_no_lines_and_rows_that_lack_a_field_are_refused() -> None:
    with pytest.raises(UserError, match="evaluate spatial or global first"):
        three_stage_chart([])
    with pytest.raises(UserError, match="a row of the three-stage table is incomplete"):
        lines_of([Result("spatial_success", Estimate(None), True, "share")])
    with pytest.raises(UserError, match="a claim is incomplete"):
        verdicts_of([{"window": "early"}])
