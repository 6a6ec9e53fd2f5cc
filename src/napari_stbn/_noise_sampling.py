"""Choose and clean the pixels from which the noise of a movie is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from napari_stbn._noise_filters import Block, BoolArray, Float32Array, FloatArray, box_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_stbn._lazy import MovieView

_PIXEL_BUDGET = 2_000_000  # pixels looked at; larger movies are sampled in windows
_WINDOW = 256  # side of a window when sampling [px]
_RUN = 6  # consecutive frames of a window when sampling
_FAR = 1e4  # values this many spreads from the median are treated as missing


@dataclass(frozen=True)
class Sampling:
    """Blocks in scaled units, value = centre + scale * scaled, and the darkest level."""

    blocks: list[Block]
    centre: float  # [counts]
    scale: float  # [counts]
    dark: float  # darkest background level, scaled
    hot: int  # hot pixels left out
    clipped: float  # fraction of pixels at a piled-up limit


def check_movie(movie: NDArray[np.generic] | MovieView) -> None:
    """Raise ValueError unless noise can be measured on this array at all."""
    if movie.ndim != 3:
        raise ValueError(
            f"movie must have shape (T, Y, X), got {movie.shape}; pass one channel and plane"
        )
    if movie.dtype.kind not in "iuf":
        raise ValueError(
            f"movie must hold real numbers (integers or floats), got {movie.dtype}; convert it"
        )
    if movie.shape[0] < 2:
        raise ValueError(
            f"movie has {movie.shape[0]} frame(s); estimating noise needs at least 2. "
            "Is T the first axis?"
        )
    if movie.size == 0:
        raise ValueError(f"movie must hold pixels, got shape {movie.shape}")


def sample_movie(movie: NDArray[np.generic] | MovieView) -> Sampling:
    """Return cleaned, scaled blocks of a (T, Y, X) movie.

    Raises
    ------
    ValueError
        If no finite pixel is there, or all pixels are equal.
    """
    raw = [np.asarray(window, dtype=np.float64) for window in _windows(movie)]
    finite = np.concatenate([block[np.isfinite(block)] for block in raw])
    if finite.size == 0:
        raise ValueError("movie has no finite pixel; noise cannot be estimated")
    thin = finite[:: max(1, finite.size // 500_000)]
    low, centre, high = np.quantile(thin, [0.05, 0.5, 0.95])
    scale = float(high - low) or float(np.std(thin)) or float(finite.max() - finite.min())
    if scale == 0.0:
        raise ValueError("all pixels of the movie are equal; it has no noise to estimate")
    limits = _piled_up_limits(finite, movie.dtype)

    blocks, darks, hot, clipped, total = [], [], 0, 0, 0
    for block in raw:
        kept = _informative_frames(block)
        if kept.sum() < 2:
            continue
        frames = block[kept]
        at_limit = np.isin(frames, limits)
        scaled = (frames - centre) / scale
        missing = ~(np.abs(scaled) < _FAR)  # NaN and inf too
        filled = _fill(scaled, missing)
        spoilt = _hot_pixels(filled)
        hot += int(spoilt.sum())
        clipped += int(at_limit.sum())
        total += at_limit.size
        wide = box_mean(missing.astype(np.float32), 3) > 1e-4 if missing.any() else missing
        bad = wide | spoilt | _frozen(filled)
        if not bad.all():
            blocks.append(Block(filled, bad, at_limit))
            darks.append(_dark_level(filled, bad))
    if not blocks:
        raise ValueError("no two frames of the movie differ; it has no noise to estimate")
    return Sampling(
        blocks=blocks,
        centre=float(centre),
        scale=scale,
        dark=float(np.quantile(np.concatenate(darks), 0.01)),
        hot=hot,
        clipped=clipped / max(total, 1),
    )


def _windows(movie: NDArray[np.generic] | MovieView) -> list[NDArray[np.generic]]:
    """Return the whole movie, or runs of frames in windows spread over space and time."""
    n, height, width = movie.shape
    if movie.size <= _PIXEL_BUDGET:
        return [movie[:]]
    h, w, t = min(height, _WINDOW), min(width, _WINDOW), min(n, _RUN)
    count = max(1, _PIXEL_BUDGET // (h * w * t))
    runs = max(1, n // t)
    across, down = max(1, width // w), max(1, height // h)
    places = across * down * runs
    windows = []
    for k in range(min(count, places)):
        # a stride coprime to the grid visits every place once, spread over all three axes
        place = (k * places) // min(count, places)
        run, cell = place % runs, (place // runs + place % runs) % (across * down)
        t0 = run * (n - t) // max(runs - 1, 1)
        y0 = (cell // across) * (height - h) // max(down - 1, 1)
        x0 = (cell % across) * (width - w) // max(across - 1, 1)
        windows.append(movie[t0 : t0 + t, y0 : y0 + h, x0 : x0 + w])
    return windows


def _informative_frames(block: FloatArray) -> BoolArray:
    """Return which frames count: neither constant (dropped) nor a repeat of the one before."""
    flat = block.reshape(len(block), -1)
    varied = np.array([not np.all(frame == frame[0]) for frame in flat])
    last: int | None = None
    for index in np.flatnonzero(varied):
        if last is not None and np.array_equal(flat[index], flat[last], equal_nan=True):
            varied[index] = False
        else:
            last = int(index)
    return varied


def _piled_up_limits(finite: FloatArray, dtype: np.dtype[np.generic]) -> list[float]:
    """Return the smallest and the largest value where they hold a pile of clipped pixels."""
    limits = []
    for sign in (1.0, -1.0):
        values = finite * sign
        edge = values.min()
        count = int(np.count_nonzero(values == edge))
        above = values[values > edge]
        if above.size == 0:
            continue
        following = int(np.count_nonzero(values == above.min()))
        full = dtype.kind in "iu" and sign < 0 and -edge == np.iinfo(dtype.name).max
        if full or (count >= 20 and count > 0.6 * following):
            limits.append(float(edge * sign))
    return limits


def _fill(scaled: FloatArray, missing: BoolArray) -> Float32Array:
    """Replace missing values by the pixel's mean over time, or else the median."""
    if not missing.any():
        return scaled.astype(np.float32)
    held = np.where(missing, 0.0, scaled)
    count = np.maximum((~missing).sum(axis=0), 1)
    mean = held.sum(axis=0) / count  # 0 is the median where a pixel is never there
    return np.where(missing, mean, scaled).astype(np.float32)


def _hot_pixels(frames: Float32Array) -> BoolArray:
    """Return isolated pixels that flicker far more than their eight neighbours, (H, W)."""
    n, height, width = frames.shape
    if n < 4 or min(height, width) < 3:
        return np.zeros((height, width), dtype=bool)
    flicker = np.square(np.diff(frames, axis=0)).mean(axis=0)
    padded = np.pad(flicker, 1, mode="reflect")
    around = [
        padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
        if (dy, dx) != (0, 0)
    ]
    usual = np.maximum(np.median(around, axis=0), 0.2 * np.median(flicker))
    limit = np.maximum(3.0, 1.0 + 8.0 * np.sqrt(4.0 / (n - 1)))
    hot = flicker > limit * usual
    return hot if hot.mean() < 0.02 else np.zeros_like(hot)


def _frozen(frames: Float32Array) -> BoolArray:
    """Return pixels that never change together with all their neighbours (padding), (H, W)."""
    if len(frames) < _RUN:
        return np.zeros(frames.shape[1:], dtype=bool)
    still = np.all(frames[1:] == frames[:-1], axis=0)
    return np.asarray(box_mean(still[None].astype(np.float32), 2)[0] > 0.999)


def _dark_level(frames: Float32Array, bad: BoolArray) -> Float32Array:
    """Return locally averaged intensities of a block, every fourth pixel, (pixels,)."""
    weight = (~bad).astype(np.float32)
    share = box_mean(weight.mean(axis=0, keepdims=True), 3)[0]
    held = box_mean((frames * weight).mean(axis=0, keepdims=True), 3)[0]
    full = share > 0.5
    if not full.any():
        full = share > 0.0
    return np.asarray(held[full] / share[full], dtype=np.float32)[::2]
