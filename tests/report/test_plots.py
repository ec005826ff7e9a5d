from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.colors import same_color
from matplotlib.lines import Line2D

from diffusae.errors import UserError
from diffusae.report.plots import TIME_LABEL, grid_heatmap, iou_curves
from report.rows import CHANCE, figure, result


def line(panel: Any, label: str) -> Line2D:
    return next(each for each in panel.get_lines() if each.get_label() == label)


def curve(block: str, conditioning: str, values: dict[float, float | None]) -> list[dict[str, Any]]:
    return [
        result(
            block,
            t,
            conditioning,
            figure(None) if v is None else figure(v, (v - 0.1, v + 0.1), 5),
            baselines=CHANCE,
        )
        for t, v in values.items()
    ]


def test_curves_have_a_panel_a_block_with_time_running_from_one_to_zero() -> None:
    rows = curve("up", "cond", {0.0: 0.6, 1.0: 0.3}) + curve("mid", "cond", {1.0: 0.2, 0.0: 0.5})
    panels = iou_curves(rows).axes
    assert [panel.get_title(loc="left") for panel in panels] == ["mid", "up"]
    for panel in panels:
        left, right = panel.get_xlim()
        assert left > 1.0 > 0.0 > right
        assert panel.get_xlabel() == TIME_LABEL
    np.testing.assert_array_equal(line(panels[1], "cond").get_xydata(), [[1.0, 0.3], [0.0, 0.6]])


def test_block_is_the_colour_and_conditioning_the_line_style() -> None:
    values: dict[float, float | None] = {1.0: 0.2, 0.0: 0.5}
    rows = [
        row
        for block in ("down", "mid")
        for c in ("cond", "uncond")
        for row in curve(block, c, values)
    ]
    panels = iou_curves(rows).axes
    for panel, colour in zip(panels, ("#0072b2", "#d55e00"), strict=True):
        assert line(panel, "cond").get_linestyle() == "-"
        assert line(panel, "uncond").get_linestyle() == "--"
        assert all(same_color(line(panel, name).get_color(), colour) for name in ("cond", "uncond"))


def test_a_moment_without_data_is_a_gap() -> None:
    (panel,) = iou_curves(curve("mid", "cond", {1.0: 0.2, 0.5: None, 0.0: 0.5})).axes
    np.testing.assert_array_equal(line(panel, "cond").get_ydata(), [0.2, np.nan, 0.5])


def test_a_point_between_gaps_keeps_a_marker_where_there_are_many_points() -> None:
    values: dict[float, float | None] = {t / 20: 0.5 for t in range(21)}
    values[0.5] = values[0.6] = None
    (panel,) = iou_curves(curve("mid", "cond", values)).axes
    assert line(panel, "cond").get_markevery() == [9]  # t = 0.55, counted from t = 1


@pytest.mark.parametrize("n", [1, 2, 50])
def test_curves_and_baselines_are_drawn_for_any_number_of_moments(n: int) -> None:
    values: dict[float, float | None] = {float(t): 0.4 for t in np.linspace(1, 0, n)}
    (panel,) = iou_curves(curve("mid", "cond", values)).axes
    assert len(np.asarray(line(panel, "cond").get_xdata())) == n
    level = next(each for each in panel.get_lines() if each.get_label() != "cond")
    assert set(np.asarray(level.get_ydata()).tolist()) == {0.14}
    assert [text.get_text() for text in panel.texts] == ["chance"]


def test_labels_of_close_baselines_do_not_overlap_and_keep_their_order() -> None:
    levels = {"a": 0.140, "b": 0.141, "c": 0.142, "d": 0.9}
    row = result(
        "mid",
        1.0,
        "cond",
        figure(0.5, None, 1),
        baselines={k: figure(v, None, 1) for k, v in levels.items()},
    )
    drawn = iou_curves([row])
    (panel,) = drawn.axes
    heights = {text.get_text(): text.xyann[1] for text in panel.texts}  # type: ignore[attr-defined]
    assert heights["d"] == 0.9
    low, middle, high = heights["a"], heights["b"], heights["c"]
    assert middle - low == pytest.approx(high - middle)
    assert (low + middle + high) / 3 == pytest.approx(0.141)
    # 8 pt letters: the labels' distance on paper must exceed that.
    points_a_unit = (
        panel.get_position().height * drawn.get_figheight() * 72 / np.ptp(panel.get_ylim())
    )
    assert (middle - low) * points_a_unit > 8


def test_seven_blocks_get_seven_panels_in_order() -> None:
    blocks = ["down", "mid", "up", *"abcd"]
    drawn = iou_curves([row for block in blocks for row in curve(block, "cond", {1.0: 0.3})])
    assert [panel.get_title(loc="left") for panel in drawn.axes if panel.axison] == blocks


def test_heat_map_puts_each_value_in_its_row_and_column() -> None:
    rows = [
        result("up", 0.0, "cond", figure(0.11, None, 1)),
        result("mid", 1.0, "uncond", figure(0.22, None, 1)),
        result("mid", 1.0, "cond", figure(0.33, None, 1)),
        result("mid", 0.0, "cond", figure(None)),
    ]
    (panel,) = grid_heatmap(rows, "composition").axes
    assert [label.get_text() for label in panel.get_yticklabels()] == [
        "mid · cond",
        "mid · uncond",
        "up · cond",
    ]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["1.00", "0.00"]
    bottom, top = panel.get_ylim()
    assert bottom > top  # the first line is the upper one
    printed = {
        text.get_position(): text.get_text() for text in panel.texts if text.get_text() != "t"
    }
    assert printed == {
        (0.5, 0.5): "0.33",
        (1.5, 0.5): "–",
        (0.5, 1.5): "0.22",
        (1.5, 1.5): "–",
        (0.5, 2.5): "–",
        (1.5, 2.5): "0.11",
    }
    mesh = next(each for each in panel.collections if isinstance(each, QuadMesh))
    shown = np.ma.filled(np.ma.asarray(mesh.get_array()), np.nan)
    np.testing.assert_array_equal(shown, [[0.33, np.nan], [0.22, np.nan], [np.nan, 0.11]])


def test_values_in_the_heat_map_contrast_with_their_cells() -> None:
    rows = [result("mid", t, "cond", figure(v, None, 1)) for t, v in ((1.0, 0.0), (0.0, 1.0))]
    (panel,) = grid_heatmap(rows, "composition").axes
    assert [text.get_color() for text in panel.texts if text.get_text() != "t"] == [
        "black",
        "white",
    ]


def test_charts_without_rows_are_refused() -> None:
    with pytest.raises(UserError, match="no rows of dead_fraction to draw"):
        grid_heatmap([], "dead_fraction")
