"""Numbers behind the loss chart: bounded storage, smoothing, robust range, round ticks."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Series", "nice_ticks", "outline", "smooth", "view_range"]

Array = NDArray[np.float64]

_MOST = 2000  # points; more than a chart has pixels


class Series:
    """A curve of at most 2000 points, however many values are added to it.

    When it is full, neighbours are averaged in pairs, and from then on twice as many values make
    one point: adding takes constant time on average, and all parts of the curve are as fine.
    """

    def __init__(self) -> None:
        self._x: list[float] = []
        self._y: list[float] = []
        self._every = 1
        self._open: list[tuple[float, float]] = []  # values of the point that is not yet full
        self._last = math.nan, math.nan

    def __bool__(self) -> bool:
        """Whether there is anything to draw."""
        return not math.isnan(self._last[0])

    @property
    def last(self) -> tuple[float, float]:
        """Newest (x, y), as it was added."""
        return self._last

    def add(self, x: float, y: float) -> None:
        """Append a value."""
        self._last = float(x), float(y)
        self._open.append(self._last)
        if len(self._open) < self._every:
            return
        self._close()
        if len(self._x) >= _MOST:
            self._x = [(a + b) / 2 for a, b in zip(self._x[::2], self._x[1::2], strict=True)]
            self._y = [(a + b) / 2 for a, b in zip(self._y[::2], self._y[1::2], strict=True)]
            self._every *= 2

    def arrays(self) -> tuple[Array, Array]:
        """All points (x, y), the newest included."""
        x, y = np.array(self._x), np.array(self._y)
        if self._open:
            x = np.append(x, self._last[0])
            y = np.append(y, np.mean([value for _, value in self._open]))
        return x, y

    def _close(self) -> None:
        self._x.append(sum(x for x, _ in self._open) / len(self._open))
        self._y.append(sum(y for _, y in self._open) / len(self._open))
        self._open = []


def smooth(values: Array) -> Array:
    """Mean of the latest values, about a twentieth of all; nothing later enters a point."""
    width = max(1, len(values) // 20)
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(1, len(values) + 1)
    start = np.maximum(0, index - width)
    return np.asarray((total[index] - total[start]) / (index - start))


def outline(x: Array, y: Array, columns: int) -> tuple[Array, Array]:
    """Lowest and highest value of groups of neighbours, about one for each column of the screen.

    Drawn as a line it looks as all the points would, in less time.
    """
    size = len(x) // max(1, columns)
    if size < 3:
        return x, y
    starts = np.arange(0, len(x), size)
    ends = [np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)]
    return np.repeat(x[starts], 2), np.stack(ends, 1).ravel()


def view_range(training: Array, held_out: Array) -> tuple[float, float]:
    """Range of the losses to show: all that matters now, not the giant losses of the first steps.

    Parameters
    ----------
    training, held_out : ndarray
        At least one value in both together.

    Returns
    -------
    low, high : float
        With a margin, and always with `low` < `high`.
    """
    late, held = training[len(training) // 4 :], held_out[len(held_out) // 4 :]
    mean = smooth(training)[len(training) // 4 :]
    # Of the single steps nine tenths; of the mean and the held-out loss nearly all, and the newest.
    ends = [(late, 0.02, 0.9), (mean, 0.0, 0.98), (held, 0.0, 0.98)]
    low = min(float(np.quantile(part, least)) for part, least, _ in ends if len(part))
    high = max(float(np.quantile(part, most)) for part, _, most in ends if len(part))
    high = max([high, *mean[-1:].tolist(), *held[-1:].tolist()])
    size = max(abs(low), abs(high))
    flat = high - low <= 1e-9 * size  # nothing but rounding
    margin = (0.05 * size or 1.0) if flat else 0.08 * (high - low)
    return low - margin, high + margin


def nice_ticks(
    low: float, high: float, count: int, *, whole: bool = False
) -> list[tuple[float, str]]:
    """Round values within a range, with their labels.

    Parameters
    ----------
    low, high : float
    count : int
        About how many.
    whole : bool
        Only whole numbers.
    """
    raw = (high - low) / max(1, count)
    if not (raw > 0 and math.isfinite(raw)):
        return [(low, _label(low, 0))]
    power = math.floor(math.log10(raw))
    step = next(s for s in (1.0, 2.0, 5.0, 10.0) if s * 10.0**power >= raw * 0.999) * 10.0**power
    if whole:
        step = max(1.0, step)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(i * step, _label(i * step, digits)) for i in range(first, last + 1)]


def _label(value: float, digits: int) -> str:
    """Short text of a tick: 1500 is 1.5k, 0.00012 is 1.2e-04."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6 or digits > 4:
        return f"{value:.1e}"
    if abs(value) >= 1000:
        return f"{value / 1000:g}k"
    return f"{value:.{digits}f}"
