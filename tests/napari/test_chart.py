"""The loss chart: bounded, robust, readable in both themes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

pytest.importorskip("napari", reason="napari is not installed")

from qtpy.QtGui import QColor, QPalette

from napari_stbn._napari._series import Series, nice_ticks, outline, smooth, view_range
from napari_stbn._napari.chart import LossChart


@pytest.fixture
def chart(qtbot: Any) -> LossChart:
    widget = LossChart()
    qtbot.addWidget(widget)
    widget.resize(260, 120)
    return widget


def _fill(chart: LossChart, steps: int = 600) -> None:
    rng = np.random.default_rng(0)
    for step in range(steps):
        loss = 0.3 + math.exp(-step / 100) + 200 * math.exp(-step / 3) + rng.normal(0, 0.05)
        chart.add(step, loss, 0.35 + math.exp(-step / 100) if step % 50 == 0 else None)


def _colours(chart: LossChart) -> np.ndarray[Any, Any]:
    image = chart.grab().toImage()
    return np.array(
        [
            [image.pixelColor(x, y).getRgb()[:3] for x in range(image.width())]
            for y in range(image.height())
        ]
    )


def test_a_long_series_keeps_its_shape_in_bounded_memory() -> None:
    series, n = Series(), 100_003
    for step in range(n):
        series.add(step, 2.0 * step)
    x, y = series.arrays()
    assert len(x) <= 2001
    np.testing.assert_allclose(y, 2 * x, atol=80)  # the newest point is a mean of up to 64
    assert x[0] < 100
    assert x[-1] == n - 1
    assert np.all(np.diff(x) > 0)
    assert series.last == (n - 1, 2.0 * (n - 1))


def test_the_newest_value_shows_at_once_also_when_points_are_means() -> None:
    series = Series()
    for step in range(2001):
        series.add(step, 0.0)
    assert series.arrays()[0][-1] == 2000


def test_smoothing_keeps_constants_and_looks_only_back() -> None:
    np.testing.assert_allclose(smooth(np.full(500, 3.0)), 3.0)
    step = np.r_[np.zeros(300), np.ones(300)]
    assert smooth(step)[299] == 0.0
    assert smooth(step)[340] == 1.0


def test_giant_first_losses_do_not_flatten_the_curve() -> None:
    steps = np.arange(1000)
    low, high = view_range(0.3 + 1e4 * np.exp(-steps / 5.0), np.array([900.0, 0.5, 0.41, 0.4]))
    assert low < 0.3
    assert 0.4 < high < 1.0


@pytest.mark.parametrize("loss", [0.0, -3.5, 1e-9, 1e12])
def test_range_and_ticks_of_a_constant_loss(loss: float) -> None:
    low, high = view_range(np.full(3, loss), np.empty(0))
    assert low < loss < high
    assert nice_ticks(low, high, 3)


def test_ticks_are_round_and_inside() -> None:
    assert nice_ticks(0, 3000, 3, whole=True) == [
        (0, "0"),
        (1000, "1k"),
        (2000, "2k"),
        (3000, "3k"),
    ]
    assert [label for _, label in nice_ticks(-0.31, -0.09, 3)] == ["-0.3", "-0.2", "-0.1"]
    assert [value for value, _ in nice_ticks(0, 1, 4, whole=True)] == [0, 1]


def test_outline_keeps_the_extremes() -> None:
    y = np.random.default_rng(0).normal(size=2000)
    _, reduced = outline(np.arange(2000.0), y, 200)
    assert len(reduced) <= 402
    assert (reduced.min(), reduced.max()) == (y.min(), y.max())


def test_values_that_are_not_finite_are_left_out(chart: LossChart) -> None:
    chart.add(0, math.nan, math.inf)
    assert chart.summary() == "The loss appears here during a fit"
    chart.add(1, 0.5, math.nan)
    chart.add(2, math.inf, 0.25)
    assert chart.summary() == "step 1: training loss 0.5, held-out loss 0.25 at step 2"
    chart.grab()


def test_it_says_what_it_shows(chart: LossChart) -> None:
    _fill(chart)
    chart.grab()
    assert "step 599: training loss" in chart.accessibleDescription()
    assert chart.toolTip() == chart.accessibleDescription()
    assert "held-out loss" in chart._at(130.0)
    chart.clear()
    assert "appears here" in chart.accessibleDescription()
    assert (chart.sizeHint().width(), chart.sizeHint().height()) == (260, 120)
    assert chart.minimumWidth() == 180


@pytest.mark.parametrize(("ink", "paper"), [("#f0f1f2", "#262930"), ("#3b3a39", "#efebe9")])
def test_curves_stand_out_in_both_themes(chart: LossChart, ink: str, paper: str) -> None:
    palette = QPalette()
    palette.setColor(QPalette.ColorRole.WindowText, QColor(ink))
    palette.setColor(QPalette.ColorRole.Window, QColor(paper))
    chart.setPalette(palette)
    _fill(chart)
    colours = _colours(chart).astype(float)
    blue = (colours[..., 2] > colours[..., 0] + 60).mean()
    orange = (colours[..., 0] > colours[..., 2] + 60).mean()
    assert blue > 0.01
    assert orange > 0.005


def test_the_legend_never_covers_the_newest_values(chart: LossChart) -> None:
    for shape in (lambda s: s, lambda s: -s, lambda _s: 0.5):
        chart.clear()
        for step in range(300):
            chart.add(step, shape(step / 300), shape(step / 300) if step % 20 == 0 else None)
        legend = _legend_of(chart)
        assert not legend.contains(*chart_point(chart, 299, shape(299 / 300)))


def _legend_of(chart: LossChart) -> Any:
    """Where the legend is painted: the only filled rectangle of the chart."""
    from unittest.mock import patch

    from qtpy.QtGui import QPainter

    boxes = []
    fill = QPainter.fillRect

    def note(painter: QPainter, box: Any, colour: QColor) -> None:
        boxes.append(box)
        fill(painter, box, colour)

    with patch.object(QPainter, "fillRect", note):
        chart.grab()
    return boxes[-1]


def chart_point(chart: LossChart, step: float, loss: float) -> tuple[float, float]:
    from napari_stbn._napari.chart import _Frame

    frame = _Frame.of(chart._training, chart._held_out)
    return frame.x(chart._area, step), frame.y(chart._area, loss)


@pytest.mark.quiet
def test_adding_and_drawing_are_cheap(chart: LossChart) -> None:
    from time import perf_counter

    _fill(chart, 5000)
    best = math.inf
    for _ in range(5):
        start = perf_counter()
        chart.grab()
        best = min(best, perf_counter() - start)
    assert best < 0.05  # s; ten a second leave half of the time of a slow machine
