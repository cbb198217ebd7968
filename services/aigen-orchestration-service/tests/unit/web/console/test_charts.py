"""Geometry of the console's charts."""

import pytest

from creativeflow.services.aigeneration.web.console import charts


@pytest.mark.parametrize(
    ("value", "top"),
    [
        (0, 1),
        (1, 1),
        (2, 2),
        (3, 5),
        (7, 10),
        (10, 10),
        (11, 20),
        (99, 100),
        (0.3, 0.5),
        (0.04, 0.05),
        (1200, 2000),
    ],
)
def test_round_up_axis_any_value_returns_next_round_number(value: float, top: float) -> None:
    assert charts.round_up_axis(value) == pytest.approx(top)


def test_build_bars_two_series_stacks_second_on_first() -> None:
    chart = charts.build_bars([10, 0, 5], [0, 0, 5])
    assert chart.top == 10
    assert [(bar.y, bar.height) for bar in chart.bars] == [
        (0, charts.HEIGHT),
        (charts.HEIGHT / 2, charts.HEIGHT / 2),
    ]
    assert [(bar.y, bar.height) for bar in chart.stacked] == [(0, charts.HEIGHT / 2)]
    assert all(
        bar.x >= 0 and bar.x + bar.width <= charts.WIDTH for bar in [*chart.bars, *chart.stacked]
    )
    assert charts.build_bars([0] * 60).bars == []


def test_build_lines_missing_value_breaks_line() -> None:
    chart = charts.build_lines([1, 2, None, 1], [None] * 4)
    assert chart.top == 2
    assert chart.lines[0].count("M") == 2
    assert chart.lines[0].count("L") == 1
    assert chart.lines[0].endswith("h3")
    assert chart.lines[1] == ""
