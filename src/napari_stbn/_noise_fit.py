"""The line through the variance of a filtered movie against its mean, for one filter."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from napari_stbn._noise_filters import (
    GROUPS,
    TILE,
    Block,
    BoolArray,
    FloatArray,
    IntArray,
    collect,
    spatial_kernel,
    time_filter,
)

_BINS = np.concatenate(
    [np.linspace(0.0, 0.9, 19), 1.0 - np.geomspace(0.08, 0.0005, 14), [1.0]]
)  # quantiles of intensity between bins: equal counts, then ever finer towards the bright tail


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


def measure(blocks: list[Block], run: int, band: int) -> Line | None:
    """Bin, reject contaminated tiles and fit the line for one filter."""
    samples = collect(blocks, run, band)
    if samples is None:
        return None
    energy = np.abs(np.fft.fft2(spatial_kernel(band), (64, 64))) ** 2
    freedom = float(energy.mean() ** 2 / np.mean(energy**2))  # of a pixel
    rows = time_filter(run) if run > 2 else None
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
    complete = size >= TILE * TILE / 2
    truncated = np.bincount(samples.tile, samples.clipped, n) / filled > 0.02
    if (complete & ~truncated).sum() > 0.02 * complete.sum():
        reference = complete & ~truncated
    else:
        reference = complete

    key = samples.group * n_bins + bins

    def sums(accepted: BoolArray) -> FloatArray:
        keep = accepted[samples.tile].astype(np.float64)
        columns = [
            np.bincount(key, keep * value, GROUPS * n_bins)
            for value in (1.0, samples.mean, samples.squared, samples.clipped)
        ]
        return np.asarray(np.stack(columns).reshape(4, GROUPS, n_bins), dtype=np.float64)

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
    nu = freedom * TILE * TILE
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
    groups = table[0].sum(axis=1) > 0
    estimates = []
    for index in np.flatnonzero(groups):
        rest = table.sum(axis=1) - table[:, index]
        rest_count = np.maximum(rest[0], 1e-9)
        estimates.append(
            _weighted_line(rest[1] / rest_count, rest[2] / rest_count, w * rest_count / count)
        )
    covariance = _covariance(x, w, np.array(estimates))
    return Line(slope, intercept, covariance, x, v, w, count)


def _covariance(x: FloatArray, w: FloatArray, replicates: FloatArray) -> FloatArray:
    """Return the covariance of (slope, intercept), shape (2, 2).

    That of weighted least squares, enlarged where the jackknife over groups of tiles finds more
    (noise shared by neighbours, structure). The jackknife alone finds too little where a few bright
    tiles decide: it then takes the chance deviation of a narrow filter for significant.
    """
    total = float(w.sum())
    centre = float((w * x).sum()) / total
    spread = max(float((w * (x - centre) ** 2).sum()), 1e-30)
    slope = 1.0 / spread
    expected = np.array(
        [[slope, -centre * slope], [-centre * slope, 1 / total + centre**2 * slope]]
    )
    n = len(replicates)
    if n < 2:
        return np.asarray(expected * 1e12)
    found = (n - 1) / n * float(np.sum((replicates[:, 0] - replicates[:, 0].mean()) ** 2))
    return np.asarray(expected * max(1.0, found / slope))
