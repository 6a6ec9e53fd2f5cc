"""Curves as SVG inside a page: colours from the page, readable in light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

_WIDTH, _HEIGHT = 560, 270  # of the drawing, in its own units
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 12, 26, 44  # around the axes
_MOST_POINTS = 400  # of a line; more cannot be told apart


@dataclass(frozen=True)
class Series:
    """One curve of a plot.

    Attributes
    ----------
    label : str
    x, y : ndarray, shape (n,)
        NaN interrupt a line.
    style : {"line", "dashed", "points", "rings"}
    colour : int
        0 blue, 1 orange, 2 gray.
    radius : ndarray, shape (n,), or float
        Of points and rings.
    """

    label: str
    x: NDArray[Any]
    y: NDArray[Any]
    style: Literal["line", "dashed", "points", "rings"] = "line"
    colour: int = 0
    radius: NDArray[Any] | float = 3.0


def plot(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    y_range: tuple[float, float] | None = None,
) -> str:
    """Draw curves in one pair of axes; a sentence says so where there is nothing to draw.

    Parameters
    ----------
    series : sequence of Series
    title : str
        For those who cannot see it.
    x_label, y_label : str
    log_x : bool
        Logarithmic; x must be positive.
    y_range : tuple of two float, optional
        Lowest and highest y that must be seen; what lies outside is cut off.

    Returns
    -------
    str
        An ``<svg>`` element.
    """
    finite = [np.isfinite(s.x) & np.isfinite(s.y) for s in series]
    if not any(mask.any() for mask in finite):
        return "<p>There is nothing to plot.</p>"
    xs = np.concatenate([s.x[m] for s, m in zip(series, finite, strict=True)])
    ys = np.concatenate([s.y[m] for s, m in zip(series, finite, strict=True)])
    to_x, x_ticks = _axis(float(xs.min()), float(xs.max()), log=log_x, margin=0.02)
    low, high = y_range or (float(ys.min()), float(ys.max()))
    to_y, y_ticks = _axis(low, high, log=False, margin=0.06)
    inner = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return to_x(x) * inner[0], (1 - to_y(y)) * inner[1]

    name = escape(title)
    box = f"0 0 {_WIDTH} {_HEIGHT}"
    parts = [f'<svg class="plot" viewBox="{box}" role="img" aria-label="{name}">']
    for value in x_ticks:
        x = _LEFT + to_x(value) * inner[0]
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_TOP + inner[1]}"/>'
            f'<text x="{x:.1f}" y="{_TOP + inner[1] + 16}" text-anchor="middle">{value:g}</text>'
        )
    for value in y_ticks:
        y = _TOP + (1 - to_y(value)) * inner[1]
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + inner[0]}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    middle = _TOP + inner[1] / 2
    parts.append(
        f'<text x="{_LEFT + inner[0] / 2}" y="{_HEIGHT - 8}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
        f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">'
        f"{escape(y_label)}</text>"
    )
    # A drawing inside the drawing cuts off what leaves the axes.
    parts.append(f'<svg x="{_LEFT}" y="{_TOP}" width="{inner[0]}" height="{inner[1]}">')
    parts += [_curve(s, m, place) for s, m in zip(series, finite, strict=True)]
    parts.append(f"</svg>{_legend(series)}</svg>")
    return "".join(parts)


def _curve(
    series: Series, finite: NDArray[np.bool_], place: Callable[[float, float], tuple[float, float]]
) -> str:
    """A line with gaps, or marks."""
    colour = f"c{series.colour}"
    if series.style in ("points", "rings"):
        marks = []
        radii = np.broadcast_to(series.radius, series.x.shape)
        for x, y, r in zip(series.x[finite], series.y[finite], radii[finite], strict=True):
            u, v = place(float(x), float(y))
            marks.append(
                f'<circle class="{series.style} {colour}" cx="{u:.1f}" cy="{v:.1f}" r="{r:.1f}"/>'
            )
        return "".join(marks)
    steps, pen = [], "M"
    for x, y, known in zip(series.x, series.y, finite, strict=True):
        if not known:
            pen = "M"
            continue
        u, v = place(float(x), float(y))
        steps.append(f"{pen}{u:.1f} {v:.1f}")
        pen = "L"
    return f'<path class="{series.style} {colour}" d="{"".join(steps)}"/>'


def _legend(series: Sequence[Series]) -> str:
    """Names above the axes, each with its mark."""
    parts, x = [], float(_LEFT)
    for s in series:
        if not s.label:
            continue
        colour = f"c{s.colour}"
        if s.style in ("points", "rings"):
            parts.append(f'<circle class="{s.style} {colour}" cx="{x + 12:.0f}" cy="12" r="3"/>')
        else:
            parts.append(f'<path class="{s.style} {colour}" d="M{x:.0f} 12h24"/>')
        parts.append(f'<text x="{x + 30:.0f}" y="16">{escape(s.label)}</text>')
        x += 46 + 6.6 * len(s.label)
    return "".join(parts)


def _axis(
    low: float, high: float, *, log: bool, margin: float
) -> tuple[Callable[[float], float], list[float]]:
    """Map from values to 0..1, and the values to mark."""
    forward: Callable[[float], float] = math.log10 if log else float
    start, end = forward(low), forward(high)
    if end - start <= 1e-9 * max(abs(start), abs(end)):  # one value
        start, end = start - (0.5 * abs(start) or 0.5), end + (0.5 * abs(end) or 0.5)
    room = margin * (end - start)
    start, end = start - room, end + room

    def to_unit(value: float) -> float:
        return (forward(value) - start) / (end - start)

    if log:
        decades = range(math.floor(start), math.ceil(end) + 1)
        marks = [m * 10.0**d for d in decades for m in (1, 2, 5)]
        return to_unit, [m for m in marks if start <= math.log10(m) <= end]
    step = _round_step((end - start) / 5)
    first, last = math.ceil(start / step), math.floor(end / step)
    return to_unit, [float(f"{n * step:.10g}") for n in range(first, last + 1)]


def _round_step(rough: float) -> float:
    """The next larger of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))


def thin(x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Means of neighbouring points, few enough to draw."""
    if len(x) <= _MOST_POINTS:
        return x, y
    groups = np.array_split(np.arange(len(x)), _MOST_POINTS)
    return (
        np.array([x[group].mean() for group in groups]),
        np.array([y[group].mean() for group in groups]),
    )
