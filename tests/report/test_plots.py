from __future__ import annotations

import numpy as np
import pytest
from matplotlib.collections import QuadMesh

from diffusae.errors import UserError
from diffusae.report.plots import grid_heatmap
from report.rows import figure, result


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
    mesh = next(drawn for drawn in panel.collections if isinstance(drawn, QuadMesh))
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
