from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import same_color
from matplotlib.lines import Line2D

from diffusae.errors import UserError
from diffusae.report.emergence import curves_of, emergence_chart
from diffusae.report.plots import TIME_LABEL
from report.rows import emerged, figure

VALUES = {1.0: 0.1, 0.5: 0.2, 0.0: 0.4}
READERS = {"noun_probe": figure(0.7, (0.6, 0.8), 7), "flat_curve": figure(1.0, None, 7)}


def rows() -> list[dict[str, Any]]:
    return [
        emerged("up", "uncond", VALUES, figure(None)),
        emerged("up", "cond", VALUES, figure(0.1, (0.05, 0.2), 7), readers=READERS),
        emerged("mid", "cond", {1.0: 0.3, 0.0: 0.5}, figure(0.25, None, 7), readers=READERS),
    ]


def panels() -> list[Axes]:
    return list(emergence_chart(curves_of(rows())).axes)


def marks(panel: Axes, marker: str) -> dict[tuple[float, float], Line2D]:
    found = [line for line in panel.get_lines() if line.get_marker() == marker]
    return {(float(line.get_xdata()[0]), float(line.get_ydata()[0])): line for line in found}  # type: ignore[index]


def test_curves_are_ordered_by_block_and_branch_whatever_the_order_of_the_rows() -> None:
    assert [curve.name for curve in curves_of(rows())] == ["mid · cond", "up · cond", "up · uncond"]
    assert [label.get_text() for label in panels()[1].get_yticklabels()] == [
        "mid · cond",
        "up · cond",
        "up · uncond",
    ]


def test_a_line_a_curve_in_the_colour_of_its_block_with_time_from_one_to_zero() -> None:
    above, below = panels()
    lines = {line.get_label(): line for line in above.get_lines()}
    np.testing.assert_array_equal(
        lines["up · cond"].get_xydata(), [[1.0, 0.1], [0.5, 0.2], [0.0, 0.4]]
    )
    assert same_color(lines["mid · cond"].get_color(), "#d55e00")
    assert lines["up · uncond"].get_linestyle() == "--"
    assert above.get_xlim()[0] > above.get_xlim()[1]
    assert above.get_xlim() == below.get_xlim()
    assert below.get_xlabel() == TIME_LABEL


def test_the_moment_is_marked_at_its_t_and_at_its_share_of_the_last_value() -> None:
    above, below = panels()
    assert [t for t, _ in marks(above, "D")] == [0.25, 0.1]
    assert [height for _, height in marks(above, "D")] == pytest.approx([0.9 * 0.5, 0.9 * 0.4])
    assert [t for t, _ in marks(below, "D")] == [0.25, 0.1]


def test_other_readers_stand_apart_from_the_predictions_own_mark() -> None:
    _, below = panels()
    own, readers = marks(below, "D"), marks(below, "^")
    assert [t for t, _ in readers] == [0.7, 0.7]
    assert {height for _, height in own}.isdisjoint({height for _, height in readers})


def test_the_figure_stands_beside_its_line_and_no_data_is_said() -> None:
    texts = {text.get_text() for text in panels()[1].texts}
    assert texts == {"0.25", "0.10 [0.05, 0.20]", "no data", "at 90 % from t ="}
    assert [text.get_text() for text in panels()[0].texts] == ["chance 0.14"]


def test_curves_of_several_saes_carry_their_tags() -> None:
    several = [
        emerged("mid", "cond", VALUES, figure(0.1, None, 7), tag=tag) for tag in ("k20", "k10")
    ]
    below = emergence_chart(curves_of(several)).axes[1]
    assert [label.get_text() for label in below.get_yticklabels()] == [
        "mid · cond · k10",
        "mid · cond · k20",
    ]


def test_nothing_of_the_chart_lies_outside_the_picture_or_on_another_text() -> None:
    figure_ = emergence_chart(
        curves_of(
            [
                emerged(b, c, VALUES, figure(0.1, (0.05, 0.2), 7), readers=READERS)
                for b in ("down", "mid", "up")
                for c in ("cond", "uncond")
            ]
        )
    )
    renderer = FigureCanvasAgg(figure_).get_renderer()
    figure_.draw(renderer)
    boxes = [text.get_window_extent(renderer) for panel in figure_.axes for text in panel.texts]
    boxes += [label.get_window_extent(renderer) for label in figure_.axes[1].get_yticklabels()]
    boxes += [legend.get_window_extent(renderer) for legend in figure_.legends]
    for index, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.x1 <= figure_.bbox.width
        assert not any(box.overlaps(other) for other in boxes[:index])


def test_no_curves_and_rows_that_lack_a_field_are_refused() -> None:
    with pytest.raises(UserError, match="three moments or more"):
        emergence_chart([])
    with pytest.raises(UserError, match="a row of emergence is incomplete"):
        curves_of([{"metric": "emergence"}])
