"""Plots: within their drawing, and with the numbers they are drawn of."""

from __future__ import annotations

import math

from batch.page.plots import HEIGHT, WIDTH, bar_plot, line_plot, number_text


def test_bars_stand_on_each_other_within_the_drawing() -> None:
    plot = bar_plot("t", ["a", "b", "c"], [("x", [1, 0, 300]), ("y", [2, 0, 700])])
    assert len(plot.bars) == 4 and not plot.is_empty
    assert all(bar.x >= 0 and bar.x + bar.width <= WIDTH and bar.y >= 0 and bar.y + bar.height <= HEIGHT for bar in plot.bars)
    lower, upper = plot.bars[2], plot.bars[3]
    assert math.isclose(lower.y, upper.y + upper.height, abs_tol=0.2) and upper.height > lower.height
    assert plot.values == ((1, 0, 300), (2, 0, 700)) and "x: at most 300, lately 300" in plot.sentence


def test_lines_are_within_the_drawing_and_break_off_where_there_is_no_value() -> None:
    plot = line_plot("t", ["a", "b", "c", "d", "e"], [("x", [0.0, 1e6, None, None, 2.5])], " s")
    (line,), (dot,) = plot.lines, plot.dots
    points = [tuple(map(float, point.split(","))) for point in line.points.split()]
    assert len(points) == 2 and all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
    assert dot.x == WIDTH and plot.sentence == "x: at most 1,000,000 s, lately 2.5 s"
    for values in ([], [None, None], [0.0]):
        assert line_plot("t", ["a"] * len(values), [("x", values)]).is_empty
    assert number_text(None) == "–"


def test_the_scale_ends_at_a_round_number_that_is_not_below_the_largest() -> None:
    for largest in (0, 1, 3, 7, 11, 49, 51, 99_999):
        plot = bar_plot("t", ["a"], [("x", [largest])])
        top = float(plot.grid[-1].text.replace(",", ""))
        assert top >= largest and str(int(top)).strip("0") in ("1", "2", "5")
    assert number_text(1234.5) == "1,234" and number_text(2.0) == "2" and number_text(2.25) == "2.2"
