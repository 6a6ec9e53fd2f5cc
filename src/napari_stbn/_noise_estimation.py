"""Measure the variance of a movie's noise against its mean, whatever moves in the movie.

The measurement rests on three facts, none of which needs Gaussian noise or a static scene.

1. A zero-sum filter ``h`` with ``sum(h**2) == 1`` over space and a few frames gives ``d`` with
   ``E[d**2] = sum(h**2 * variance(mean))``. When the variance is linear in the mean this equals
   the line at the ``h**2``-weighted local mean exactly, also across edges.
2. Pixels are sorted into intensity bins by *other* frames than the one that ``d`` rests on, so
   the sorting does not select noise: no regression dilution, even at two photons.
3. What an optical system images is smooth, noise is not: the spatial filters pass only the finest
   scales. How fine is decided by the movie: the widest filter that agrees with all narrower ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

_TILE = 8  # side of the tiles that are accepted or rejected whole [px]
_GROUPS = 24  # jackknife groups
_BINS = np.concatenate(
    [np.linspace(0.0, 0.9, 19), 1.0 - np.geomspace(0.08, 0.0005, 14), [1.0]]
)  # quantiles of intensity between bins: equal counts, then ever finer towards the bright tail
_RADIUS = {2: 2, 4: 4, 8: 6, 0: 2}  # band -> kernel radius [px]
_FILTERS = ((8, 2), (8, 4), (8, 8), (2, 8), (2, 0))  # (frames, band), wider to narrower
_SELECTION = 2.7  # standard errors by which a wider filter may differ from a narrower one


@dataclass(frozen=True)
class Block:
    """Consecutive frames of one window, scaled, with the pixels that must not count."""

    frames: Float32Array  # (n, H, W)
    bad: BoolArray  # (n, H, W)
    clipped: BoolArray  # (n, H, W), at the smallest or the largest value of the movie


@dataclass(frozen=True)
class Line:
    """variance = slope * mean + intercept, and what it was fitted to (scaled units)."""

    slope: float
    intercept: float
    covariance: FloatArray  # (2, 2), of (slope, intercept)
    means: FloatArray  # (bins,)
    variances: FloatArray  # (bins,)
    weights: FloatArray  # (bins,), 1 / variance of ``variances``; 0 where a bin was left out
    counts: FloatArray  # (bins,), pixels
    replicates: FloatArray  # (groups, 2), (slope, intercept) with one group of tiles left out
    rejected: float = 0.0  # fraction of tiles rejected
    frames: int = 0  # run of frames of the filter
    band: int = 0  # spatial band of the filter

    def at(self, mean: FloatArray) -> FloatArray:
        """Return the variance at each mean."""
        return self.slope * mean + self.intercept

    def error_at(self, mean: FloatArray) -> FloatArray:
        """Return the standard error of the variance at each mean."""
        design = np.stack([mean, np.ones_like(mean)], axis=-1)
        squared = np.einsum("ni,ij,nj->n", design, self.covariance, design)
        return np.asarray(np.sqrt(np.maximum(squared, 0.0)))


def fit_line(blocks: list[Block]) -> Line | None:
    """Return the variance line of the widest filter that agrees with all narrower ones.

    None when no filter leaves enough pixels to measure.
    """
    longest = max(len(block.frames) for block in blocks)
    filters = dict.fromkeys((run if longest >= 4 else 2, band) for run, band in _FILTERS)
    lines = [line for run, band in filters if (line := _measure(blocks, run, band)) is not None]
    if not lines:
        return None
    for index, line in enumerate(lines):
        levels = line.means[line.weights > 0]
        levels = np.quantile(levels, [0.0, 0.5, 1.0]) if levels.size else np.zeros(1)
        if all(_agree(line, narrower, levels) for narrower in lines[index + 1 :]):
            return line
    return lines[-1]


def spatial_kernel(band: int) -> FloatArray:
    """Return a zero-sum high-pass kernel of unit energy, shape (2r+1, 2r+1).

    ``band`` >= 1 is the power of (1 - binomial smoothing); 0 is the fourth difference along both
    axes, which passes only the corner of the spectrum.
    """
    if band == 0:
        fourth = np.array([1.0, -4.0, 6.0, -4.0, 1.0])
        kernel = np.outer(fourth, fourth)
    else:
        step = np.array([1.0, 2.0, 1.0]) / 4.0
        one = -np.outer(step, step)
        one[1, 1] += 1.0
        size = 2 * band + 1
        spectrum = np.fft.fft2(one, (size, size)) ** band
        kernel = np.real(np.fft.ifft2(spectrum))
        cut = band - _RADIUS.get(band, band)
        kernel = kernel[cut : size - cut, cut : size - cut]
        taper = np.abs(kernel)
        kernel = kernel - kernel.sum() * taper / taper.sum()
    return np.asarray(kernel / np.sqrt(np.sum(kernel**2)))


def _agree(wide: Line, narrow: Line, levels: FloatArray) -> bool:
    """Whether the wider filter finds no more variance than the narrower one, within errors.

    Structure only ever adds, so the test has one side. The wider filter is nearly efficient, so
    the variance of the difference is the difference of the variances (Hausman's test).
    """
    other_level = narrow.at(levels)
    difference = wide.at(levels) - other_level
    own, other = wide.error_at(levels), narrow.error_at(levels)
    error = np.sqrt(np.maximum(other**2 - own**2, 0.25 * other**2))
    return bool(np.all(difference <= _SELECTION * error + 0.005 * np.abs(other_level)))


def correlation_excess(blocks: list[Block], line: Line) -> float:
    """Return the variance of all spatial scales over that of the finest, where nothing moves.

    1 for white noise, more where neighbouring pixels share noise. Motion adds variance too, so the
    quiet tenth of all tiles decides; a lower bound wherever less than that is at rest.
    """
    ratios = []
    for block in blocks:
        n, height, width = block.frames.shape
        if n < 2 or min(height, width) < _TILE:
            continue
        difference = _over_time(block.frames, 2, square=False)
        difference = difference - box_mean(difference, _TILE // 2)
        kept = ~(block.bad | block.clipped)
        kept = kept[1:] & kept[:-1]
        mean = _over_time(block.frames, 2, square=True)

        share = _tile_means(kept)
        whole = share > 0.95
        predicted = line.at(_tile_means(mean * kept)[whole] / share[whole])
        found = _tile_means(np.square(difference) * kept)[whole] / share[whole]
        ratios.append((found / predicted)[predicted > 0])
    joined = np.concatenate(ratios) if ratios else np.empty(0)
    if joined.size < 50:
        return 1.0
    spread = 2.0 / (9.0 * _TILE * _TILE)
    tenth = (1.0 - spread - 1.2816 * np.sqrt(spread)) ** 3  # of chi-square / nu, Wilson-Hilferty
    whole_box = (_TILE + 1) ** 2
    return float(np.quantile(joined, 0.1) / tenth * whole_box / (whole_box - 1))


def _tile_means(values: NDArray[np.generic]) -> FloatArray:
    """Return means over whole tiles, (n, H // tile, W // tile)."""
    n, rows, columns = len(values), values.shape[1] // _TILE, values.shape[2] // _TILE
    cut = values[:, : rows * _TILE, : columns * _TILE].astype(np.float64)
    return np.asarray(cut.reshape(n, rows, _TILE, columns, _TILE).mean(axis=(2, 4)))


def _valid_convolution(frames: Float32Array, kernel: FloatArray) -> Float32Array:
    """Correlate each frame with a symmetric kernel where it fits whole: (n, H-2r, W-2r)."""
    height, width = frames.shape[1:]
    grow = kernel.shape[0] - 1
    spectrum = np.fft.rfft2(kernel.astype(np.float32), (height, width))
    filtered = np.fft.irfft2(np.fft.rfft2(frames) * spectrum, (height, width))
    return np.asarray(filtered[:, grow:, grow:], dtype=np.float32)


def box_mean(frames: Float32Array, radius: int) -> Float32Array:
    """Return the mean over (2r+1)^2 pixels with reflected borders, same shape."""
    size = 2 * radius + 1
    out = frames
    for axis in (1, 2):
        pad = [(0, 0), (0, 0), (0, 0)]
        pad[axis] = (radius + 1, radius)
        total = np.cumsum(np.pad(out, pad, mode="symmetric"), axis=axis, dtype=np.float64)
        low = [slice(None)] * 3
        high = [slice(None)] * 3
        low[axis], high[axis] = slice(None, -size), slice(size, None)
        out = ((total[tuple(high)] - total[tuple(low)]) / size).astype(np.float32)
    return out


@dataclass(frozen=True)
class _Samples:
    """One number a pixel of every usable frame, flattened."""

    squared: Float32Array  # d**2
    mean: Float32Array  # h**2-weighted mean of what entered d
    level: Float32Array  # intensity from other frames
    clipped: Float32Array  # share of pixels nearby at the movie's limits
    tile: IntArray
    group: IntArray
    n_tiles: int


def _collect(blocks: list[Block], run: int, band: int) -> _Samples | None:
    """Filter all blocks: each frame less the others of its run, then the spatial high-pass."""
    kernel = spatial_kernel(band)
    radius = kernel.shape[0] // 2
    parts: list[tuple[NDArray[Any], ...]] = []
    n_tiles = 0
    for place, block in enumerate(blocks):
        n, height, width = block.frames.shape
        if n < (4 if run > 2 else 2) or min(height, width) < 2 * radius + 2:
            continue
        inner = (slice(None), slice(radius, -radius), slice(radius, -radius))
        high = _valid_convolution(block.frames, kernel)
        mean = _valid_convolution(block.frames, kernel**2)
        difference, mean = _over_time(high, run, square=False), _over_time(mean, run, square=True)
        level = levels(block.frames, pairs=run == 2)[inner]
        bad = _spread(block.bad, min(radius, 3))[inner] > 1e-4
        clipped = _spread(block.clipped, 1)[inner]
        if run == 2:
            bad, clipped = bad[1:] | bad[:-1], (clipped[1:] + clipped[:-1]) / 2.0
        rows = np.arange(radius, radius + mean.shape[1]) // _TILE
        columns = np.arange(radius, radius + mean.shape[2]) // _TILE
        across = int(columns[-1]) + 1
        per_frame = (int(rows[-1]) + 1) * across
        flat = rows[:, None] * across + columns[None, :]
        tile = n_tiles + np.arange(len(mean))[:, None, None] * per_frame + flat
        group = (rows[:, None] * 5 + columns[None, :] + 7 * place) % _GROUPS
        group = np.broadcast_to(group, mean.shape) if per_frame >= _GROUPS else tile % _GROUPS
        n_tiles += len(mean) * per_frame
        arrays = (np.square(difference), mean, level, clipped, tile, group)
        parts.append(tuple(array[~bad] for array in arrays))
    if not parts or sum(len(part[0]) for part in parts) < 64:
        return None
    squared, means, level, clipped, tiles, groups = map(np.concatenate, zip(*parts, strict=True))
    return _Samples(squared, means, level, clipped, tiles, groups, n_tiles)


def _spread(mask: BoolArray, radius: int) -> Float32Array:
    """Return the share of a mask in the box around each pixel."""
    share = mask.astype(np.float32)
    return box_mean(share, radius) if mask.any() else share


def _over_time(values: Float32Array, run: int, *, square: bool) -> Float32Array:
    """Filter along time: overlapping frame pairs, or each frame less others of its run.

    The filter has unit energy; ``square`` gives the local mean under its squared weights instead.
    """
    if run == 2:
        if square:
            return (values[1:] + values[:-1]) / np.float32(2.0)
        return (values[1:] - values[:-1]) / np.float32(np.sqrt(2.0))
    parts = []
    for part in np.array_split(values, -(-len(values) // run)):
        weights = _time_filter(len(part))
        weights = weights**2 if square else weights
        parts.append(np.tensordot(weights.astype(np.float32), part, axes=1))
    return np.concatenate(parts)


def _time_filter(n: int) -> FloatArray:
    """Return the rows "each frame less the mean of the others", of unit energy, shape (n, n).

    The frames beside it, which tell its intensity, take no part.
    """
    apart = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    others = (apart > 1).astype(np.float64)
    rows = np.eye(n) - others / others.sum(axis=1, keepdims=True)
    return np.asarray(rows / np.sqrt(np.sum(rows**2, axis=1, keepdims=True)))


def levels(frames: Float32Array, *, pairs: bool) -> Float32Array:
    """Return the intensity of each frame (or frame pair) from the frames beside it.

    Shape (n, H, W), or (n-1, H, W) for pairs. A pair of which no frame is beside is told by a wide
    box of its own, the noise of which is small.
    """
    n = len(frames)
    if n == 2:
        wide = box_mean(frames, 4)
        return wide.mean(axis=0, keepdims=True, dtype=np.float32) if pairs else wide[::-1]
    smooth = box_mean(box_mean(frames, 1), 1)
    near, far = (smooth[:-3], smooth[3:]) if pairs else (smooth[:-2], smooth[2:])
    first, last = (smooth[2:3], smooth[-3:-2]) if pairs else (smooth[1:2], smooth[-2:-1])
    return np.concatenate([first, (near + far) / np.float32(2.0), last])


def _measure(blocks: list[Block], run: int, band: int) -> Line | None:
    """Bin, reject contaminated tiles and fit the line for one filter."""
    samples = _collect(blocks, run, band)
    if samples is None:
        return None
    energy = np.abs(np.fft.fft2(spatial_kernel(band), (64, 64))) ** 2
    freedom = float(energy.mean() ** 2 / np.mean(energy**2))  # of a pixel
    rows = _time_filter(run) if run > 2 else None
    freedom *= run / float(np.sum((rows @ rows.T) ** 2)) if rows is not None else 1.0 / 1.5
    kurtosis = float(np.sum(spatial_kernel(band) ** 4)) / 2.0

    thin = samples.level[:: max(1, samples.level.size // 200_000)]
    edges = np.unique(np.quantile(thin, _BINS)[1:-1])
    bins = np.searchsorted(edges, samples.level)
    n_bins = len(edges) + 1

    n = samples.n_tiles
    size = np.bincount(samples.tile, minlength=n).astype(np.float64)
    filled = np.maximum(size, 1.0)
    tile_variance = np.bincount(samples.tile, samples.squared, n) / filled
    tile_mean = np.bincount(samples.tile, samples.mean, n) / filled
    tile_bin = np.searchsorted(edges, np.bincount(samples.tile, samples.level, n) / filled)
    complete = size >= _TILE * _TILE / 2
    truncated = np.bincount(samples.tile, samples.clipped, n) / filled > 0.02
    if (complete & ~truncated).sum() > 0.02 * complete.sum():
        reference = complete & ~truncated
    else:
        reference = complete

    key = samples.group * n_bins + bins

    def sums(accepted: BoolArray) -> FloatArray:
        keep = accepted[samples.tile].astype(np.float64)
        columns = [
            np.bincount(key, keep * value, _GROUPS * n_bins)
            for value in (1.0, samples.mean, samples.squared, samples.clipped)
        ]
        return np.asarray(np.stack(columns).reshape(4, _GROUPS, n_bins), dtype=np.float64)

    slope, intercept = _tile_line(tile_variance, tile_mean, tile_bin, reference, freedom, n_bins)
    accepted = complete
    fit = _fit_bins(sums(accepted), freedom, kurtosis)
    floor = 1e-3 * float(np.median(tile_variance[complete])) + 1e-12 if complete.any() else 1e-12
    for _ in range(3):
        predicted = np.maximum(slope * tile_mean + intercept, floor)
        spread = 2.0 / (freedom * filled) + kurtosis * slope**2 / predicted / filled
        ratio = tile_variance / predicted - 1.0
        kept = complete & (ratio < 4.5 * np.sqrt(spread) + 4.0 * spread)
        if kept.sum() < 0.3 * complete.sum():
            kept = accepted
        if fit is None or np.array_equal(kept, accepted):
            break
        accepted = kept
        fit = _fit_bins(sums(accepted), freedom, kurtosis)
        if fit is not None:
            slope, intercept = fit.slope, fit.intercept
    if fit is None:
        return None
    rejected = 1.0 - float(accepted.sum()) / max(float(complete.sum()), 1.0)
    return replace(fit, rejected=rejected, frames=run, band=band)


def _tile_line(
    variance: FloatArray,
    mean: FloatArray,
    bins: IntArray,
    complete: BoolArray,
    freedom: float,
    n_bins: int,
) -> tuple[float, float]:
    """Return a first (slope, intercept) from the median tile of each bin."""
    nu = freedom * _TILE * _TILE
    correction = (1.0 - 2.0 / (9.0 * nu)) ** 3  # median of chi-square / nu (Wilson-Hilferty)
    points = []
    for index in range(n_bins):
        inside = complete & (bins == index)
        count = int(inside.sum())
        if count >= 5:
            level = float(np.median(variance[inside])) / correction
            points.append((float(np.mean(mean[inside])), level, count))
    if len(points) < 2:
        value = float(np.median(variance[complete])) if complete.any() else 1.0
        return 0.0, value
    x, v, count_array = np.array(points).T
    weight = count_array / np.maximum(v, 0.05 * np.median(v)) ** 2
    return _robust_line(x, v, weight)[:2]


def _robust_line(x: FloatArray, v: FloatArray, weight: FloatArray) -> tuple[float, float]:
    """Return (slope, intercept) by least squares, points off the line losing weight (Huber)."""
    w = weight
    slope = intercept = 0.0
    for _ in range(8):
        slope, intercept = _weighted_line(x, v, w)
        residual = np.abs(v - slope * x - intercept) * np.sqrt(weight)
        scale = max(float(np.median(residual)) * 1.48, 1e-30)
        w = weight * np.minimum(1.0, 2.0 * scale / np.maximum(residual, 1e-30))
    return slope, intercept


def _weighted_line(x: FloatArray, v: FloatArray, w: FloatArray) -> tuple[float, float]:
    """Return (slope, intercept) of the weighted least-squares line."""
    total = w.sum()
    centre, height = (w * x).sum() / total, (w * v).sum() / total
    spread = (w * (x - centre) ** 2).sum()
    slope = (w * (x - centre) * (v - height)).sum() / spread if spread > 0 else 0.0
    return float(slope), float(height - slope * centre)


def _fit_bins(table: FloatArray, freedom: float, kurtosis: float) -> Line | None:
    """Fit the line to the bins; table is (count, mean, variance, clipped) x group x bin."""
    count = table[0].sum(axis=0)
    used = count >= 30
    if not used.any():
        return None
    count, table = count[used], table[:, :, used]
    x, v, clipped = table[1:].sum(axis=1) / count
    dark = float(v[np.argsort(x)[: max(1, len(x) // 5)]].mean())

    def weights(fitted: FloatArray, slope: float) -> FloatArray:
        level = np.maximum(fitted, 0.05 * float(np.median(v)) + 1e-12)
        error = 2.0 * level**2 / freedom + kurtosis * slope**2 * np.maximum(level - dark, 0.0)
        return np.asarray(count / error)

    for limit in (0.005, 0.02, 0.05, np.inf):  # fewest clipped pixels, yet enough to see a line
        good = clipped < limit
        if good.sum() >= 4 and count[good].sum() >= 0.02 * count.sum():
            break
    w = weights(v, 0.0) * good
    slope, intercept = 0.0, float(np.average(v, weights=w))
    for _ in range(6):
        slope, intercept = _weighted_line(x, v, w)
        fitted = slope * x + intercept
        base = weights(fitted, slope)
        error = np.sqrt(1.0 / base + (0.01 * fitted) ** 2)
        off = np.abs(v - fitted) / error
        in_line = good | (np.abs(v - fitted) < 0.03 * np.abs(fitted) + 2.0 / np.sqrt(base))
        w = base * in_line * np.minimum(1.0, 2.5 / np.maximum(off, 1e-9))
    estimates = []
    for index in np.flatnonzero(table[0].sum(axis=1) > 0):
        rest = table.sum(axis=1) - table[:, index]
        rest_count = np.maximum(rest[0], 1e-9)
        estimates.append(
            _weighted_line(rest[1] / rest_count, rest[2] / rest_count, w * rest_count / count)
        )
    scatter = np.array(estimates) - np.mean(estimates, axis=0)
    n = len(estimates)
    covariance = (n - 1) / n * scatter.T @ scatter if n > 1 else np.full((2, 2), np.inf)
    return Line(slope, intercept, covariance, x, v, w, count, np.array(estimates))
