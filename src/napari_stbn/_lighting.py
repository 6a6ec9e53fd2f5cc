"""Light that flickers: measured frame by frame, made even for the network, put back afterwards.

A lamp or a laser that flickers multiplies whole frames. To the network that is a change everywhere
at once, which no motion explains, and noise measured between frames holds it. So the network is
shown frames as an even light would have made them: darker ones made brighter, around the level that
is recorded in the dark. The results get the light of their frames again.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ._generators import last
from ._lazy import MovieView

__all__ = [
    "AT_ONCE",
    "FlickerChoice",
    "Frames",
    "Lighting",
    "Movie",
    "block_means",
    "even_movie",
    "in_even_light",
    "measure_lighting",
]

FlickerChoice = Literal["auto", "off"]
FloatArray = NDArray[np.float64]
Frames = NDArray[np.float32]
Movie = NDArray[Any] | MovieView

_SIDE = 8  # px of a block at least
_BLOCKS = 32  # along each axis at most
_FEWEST = 4  # along each axis; fewer cannot show that all of the field changes alike
_SLOW = 15  # frames over which slower changes stay: bleaching is no flicker
_SHORTEST = 6  # frames
_WORTH = 0.015  # standard deviation of the light from which it is worth the trouble
_ALIKE = 0.7  # correlation of the light in both halves of the field
_UNEXPLAINED = 0.8  # of what changes from frame to frame, where it is the light: no more
_OUTLIER = 2.0  # times as bright, or as dark, as the frames around: dropped or blank, not lit
_DEPTHS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # of the dark level, in ranges
_PAIRS = 64  # of frames that the dark level is measured on
AT_ONCE = 2**21  # pixels that are read at once, or a frame
_ALL = slice(None)
_CLIPPED = 1e-3  # of the pixels at the movie's greatest value: they do not follow the light


@dataclass(frozen=True)
class Lighting:
    """The light of each frame of a movie.

    Parameters
    ----------
    level : float [user's units]
        What is recorded in the dark.
    gains : ndarray, shape (T,)
        Light of each frame over that of the frames around it; exactly 1 where it stays as it is.
    """

    level: float
    gains: FloatArray

    @property
    def strength(self) -> float:
        """Standard deviation of the light, as a part of it."""
        return float(np.std(self.gains))

    @property
    def note(self) -> str:
        """Sentence for the user."""
        return (
            f"The light of the frames flickers by {100 * self.strength:.0f} %: the fit sees them "
            "in even light, and the result gets the light of its frames again."
        )

    def even(self, frames: NDArray[Any]) -> Frames:
        """All frames (T, Y, X) of the movie in even light, float32."""
        return in_even_light(frames, self.gains[:, None, None], np.array(self.level))

    def restored(
        self, start: int, mean: Frames, std: Frames | None
    ) -> tuple[Frames, Frames | None]:
        """Frames (T', Y, X) from `start` on with the light that they were recorded in."""
        gains = self.gains[start : start + len(mean), None, None].astype(np.float32)
        level = np.float32(self.level)
        lit = np.where(gains == 1, mean, level + (mean - level) * gains)
        return lit, None if std is None else std * gains


def in_even_light(frames: NDArray[Any], gains: FloatArray, levels: FloatArray) -> Frames:
    """Frames in even light, float32, by gains and dark levels that broadcast with them."""
    seen, gain, level = (a.astype(np.float32) for a in (frames, gains, levels))
    return np.where(gain == 1, seen, level + (seen - level) / gain)


def block_means(frame: FloatArray) -> FloatArray:
    """Means of a frame (Y, X) over square blocks, (rows, columns); NaN where half is not finite."""
    side = max(_SIDE, math.ceil(max(frame.shape) / _BLOCKS))
    rows, columns = (length // side for length in frame.shape)
    blocks = frame[: rows * side, : columns * side].reshape(rows, side, columns, side)
    finite = np.isfinite(blocks)
    count = finite.sum((1, 3))
    total = np.where(finite, blocks, 0.0).sum((1, 3))
    return np.where(2 * count > side * side, total / np.maximum(count, 1), np.nan)


def even_movie(movie: NDArray[Any], choice: FlickerChoice = "auto") -> tuple[NDArray[Any], str]:
    """A movie (T, Y, X) in even light, and what is worth saying of it: a look before a run."""
    light = None if choice == "off" else last(measure_lighting(movie))
    return (movie, "") if light is None else (light.even(movie), light.note)


def measure_lighting(movie: Movie, rows: slice = _ALL) -> Generator[float, None, Lighting | None]:
    """Measure how the light of a movie flickers, if it does.

    Parameters
    ----------
    movie : array or view, shape (T, Y, X) [user's units]
        Read a few frames at a time.
    rows : slice, optional
        Of the frames that are looked at.

    Yields
    ------
    float
        Part of the work that is done, 0 to 1.

    Returns
    -------
    Lighting or None
        None where the light is even to one per cent and a half, where the halves of the field do
        not agree or most of the change is none of the light (then it is the scene that changes, or
        noise), or where bright pixels are clipped.
    """
    count = len(movie)
    means: list[FloatArray] = []
    greatest, clipped, pixels = -math.inf, 0, 0
    run = max(1, min(count, AT_ONCE // math.prod(movie.shape[1:])))
    for first in range(0, count, run):
        if first:
            yield first / count
        for recorded in movie[first : first + run, rows]:
            frame = recorded.astype(np.float64)
            means.append(block_means(frame))
            top = float(np.max(frame, initial=-math.inf, where=np.isfinite(frame)))
            if top > greatest:
                greatest, clipped = top, 0
            clipped += int(np.count_nonzero(frame == greatest)) if top == greatest else 0
            pixels += frame.size
    if count < _SHORTEST or min(means[0].shape) < _FEWEST or clipped > _CLIPPED * pixels:
        return None
    blocks = np.stack(means)
    if not np.isfinite(blocks).any():
        return None
    level = _dark_level(blocks.reshape(count, -1))
    light = _light(blocks, level)
    middle, centre = (length // 2 for length in blocks.shape[1:])
    halves = (
        (blocks[:, :middle], blocks[:, middle:]),
        (blocks[:, :, :centre], blocks[:, :, centre:]),
    )
    if np.std(light) < _WORTH or not all(_agree(*both, level) for both in halves):
        return None
    if _unexplained(blocks, level) > _UNEXPLAINED:
        return None
    return Lighting(level, np.exp(light))


def _agree(one: FloatArray, other: FloatArray, level: float) -> bool:
    """Whether the light changes alike in two parts of the field."""
    lights = _light(one, level), _light(other, level)
    spread = float(np.std(lights[0]) * np.std(lights[1]))
    return spread > 0 and float(np.mean(lights[0] * lights[1])) >= _ALIKE * spread


def _unexplained(blocks: FloatArray, level: float) -> float:
    """Part of the change between frames that is left when their light is made the same."""
    above = blocks.reshape(len(blocks), -1) - level
    pairs = [*pairwise(_lit(above))]
    change = sum(float(np.nansum(np.abs(above[b] - above[a]))) for a, b in pairs)
    return _left(above, pairs) / change if change > 0 else 1.0


def _left(above: FloatArray, pairs: Sequence[tuple[int, int]]) -> float:
    """What changes between pairs of frames besides their light, summed over blocks (T, N)."""
    return sum(
        float(np.nansum(np.abs(above[b] - _ratio(above[a], above[b]) * above[a]))) for a, b in pairs
    )


def _light(blocks: FloatArray, level: float) -> FloatArray:
    """Logarithm of the light of each frame over that of the frames around; 0 of outliers."""
    above = blocks.reshape(len(blocks), -1) - level
    lit = _lit(above)
    steps = [_ratio(above[a], above[b]) for a, b in pairwise(lit)]
    course = np.concatenate([[0.0], np.cumsum(np.log(steps))])
    light = np.zeros(len(blocks))
    if len(lit) >= _SHORTEST:
        light[lit] = course - _slow(course, min(_SLOW, len(lit) - 1 + len(lit) % 2))
    return light


def _slow(course: FloatArray, window: int) -> FloatArray:
    """Local line through an odd number of values; at either end the line through the outermost.

    A Savitzky-Golay filter, whose module in scipy takes longer to import than all else here.
    """
    slow = np.convolve(course, np.full(window, 1 / window), "same")
    at, half = np.arange(window), window // 2
    slow[:half] = np.polyval(np.polyfit(at, course[:window], 1), at[:half])
    slow[-half:] = np.polyval(np.polyfit(at, course[-window:], 1), at[-half:])
    return slow


def _lit(above: FloatArray) -> Sequence[int]:
    """Frames that are about as bright as those around."""
    measured = np.flatnonzero(np.isfinite(above).any(1))
    whole = np.array([np.nanmean(above[t]) for t in measured])
    usual = np.array([np.median(whole[max(0, i - 3) : i + 4]) for i in range(len(whole))])
    alike = (usual > 0) & (whole > usual / _OUTLIER) & (whole < usual * _OUTLIER)
    kept: list[int] = measured[alike].tolist()
    return kept


def _ratio(before: FloatArray, after: FloatArray) -> float:
    """Light of a frame over that of another one: what most of the field says.

    The weighted median of the blocks' ratios, which minimises the sum of ``|after - r before|``:
    what changes in a smaller part of the field does not count.
    """
    seen = (before > 0) & (after > 0)  # of NaN it is neither
    if not seen.any():
        return 1.0
    ratios, weights = after[seen] / before[seen], before[seen]
    order = np.argsort(ratios)
    total = np.cumsum(weights[order])
    return float(ratios[order][np.searchsorted(total, total[-1] / 2)])


def _dark_level(blocks: FloatArray) -> float:
    """The level (T, N) around which most of what changes from frame to frame is a factor.

    A camera's offset, or far below where it is the offset itself that drifts.
    """
    seen = blocks[np.isfinite(blocks).any(1)]
    low, high = np.median(np.nanpercentile(seen, (0.5, 99.5), axis=1), axis=1)
    lit = _lit(blocks - (low - (high - low)))
    if len(lit) < 2:
        return float(low)
    chosen = np.unique(np.linspace(0, len(lit) - 2, _PAIRS).round().astype(int)).tolist()
    pairs = [(lit[i], lit[i + 1]) for i in chosen]

    levels = [float(low - depth * (high - low)) for depth in _DEPTHS]
    return min(levels, key=lambda level: _left(blocks - level, pairs))
