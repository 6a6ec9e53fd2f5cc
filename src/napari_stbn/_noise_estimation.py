"""Measure the variance of a movie's noise against its mean, whatever moves in the movie.

The measurement rests on three facts, none of which needs Gaussian noise or a static scene.

1. A zero-sum filter ``h`` with ``sum(h**2) == 1`` over space and a few frames gives ``d`` with
   ``E[d**2] = sum(h**2 * variance(mean))``. When the variance is linear in the mean this equals
   the line at the ``h**2``-weighted local mean exactly, also across edges.
2. Pixels are sorted into intensity bins by *other* frames than the one that ``d`` rests on, so
   the sorting does not select noise: no regression dilution, even at two photons.
3. What an optical system images is smooth, noise is not: the spatial filters pass only the finest
   scales. How fine is decided by the movie: wide filters count as far as narrower ones agree.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from napari_stbn._noise_filters import TILE, Block, FloatArray, box_mean, over_time, tile_means
from napari_stbn._noise_fit import Line, measure

_FILTERS = ((8, 2), (8, 4), (8, 8), (2, 8), (2, 0))  # (frames, band), wider to narrower
# Standard errors by which a wider filter may exceed a narrower one: up to the first it counts
# in full, from the second not at all. Up to 30 comparisons (10 pairs at 3 levels) are made.
_DOUBT, _REFUSAL = 1.5, 4.0
_SYSTEMATIC = 0.005  # relative excess of variance that is neither noticed nor minded


def fit_line(blocks: list[Block]) -> Line | None:
    """Return the variance line, wide filters weighing as far as narrower ones agree with them.

    None when no filter leaves enough pixels to measure.

    Notes
    -----
    A hard choice would exchange a good wide filter for a narrow one of three times its error by
    chance. Here the wide one gives up its weight gradually, and the covariance holds the spread
    between the filters that share the weight (Buckland et al., Biometrics 53, 603, 1997) and the
    excess that no comparison notices.
    """
    longest = max(len(block.frames) for block in blocks)
    filters = dict.fromkeys((run if longest >= 4 else 2, band) for run, band in _FILTERS)
    lines = [line for run, band in filters if (line := measure(blocks, run, band)) is not None]
    if not lines:
        return None
    shares, left = [], 1.0
    for index, line in enumerate(lines):
        excess = max((_excess(line, narrow) for narrow in lines[index + 1 :]), default=0.0)
        trust = float(np.clip((_REFUSAL - excess) / (_REFUSAL - _DOUBT), 0.0, 1.0))
        shares.append(left * trust)
        left *= 1.0 - trust
    return _combine(lines, np.array(shares))


def _excess(wide: Line, narrow: Line) -> float:
    """Return by how many standard errors the wider filter finds more variance, at the worst level.

    Structure only ever adds, so the test has one side. The wider filter is nearly efficient, so
    the variance of the difference is the difference of the variances (Hausman's test).
    """
    levels = wide.means[wide.weights > 0]
    levels = np.quantile(levels, [0.0, 0.5, 1.0]) if levels.size else np.zeros(1)
    reference = narrow.at(levels)
    difference = wide.at(levels) - reference - _SYSTEMATIC * np.abs(reference)
    own, other = wide.error_at(levels), narrow.error_at(levels)
    error = np.sqrt(np.maximum(other**2 - own**2, 0.25 * other**2))
    return float(np.max(difference / np.maximum(error, 1e-30)))


def _combine(lines: list[Line], shares: FloatArray) -> Line:
    """Return the weighted mean of lines; bins are those of the line with the largest share."""
    parameters = np.array([(line.slope, line.intercept) for line in lines])
    mean = shares @ parameters
    covariance = _SYSTEMATIC**2 * np.outer(mean, mean)
    for share, line, own in zip(shares, lines, parameters, strict=True):
        covariance = covariance + share * (line.covariance + np.outer(own - mean, own - mean))
    main = lines[int(np.argmax(shares))]
    return replace(
        main, slope=float(mean[0]), intercept=float(mean[1]), covariance=np.asarray(covariance)
    )


def correlation_excess(blocks: list[Block], line: Line) -> float:
    """Return the variance of all spatial scales over that of the finest, where nothing moves.

    1 for white noise, more where neighbouring pixels share noise. Motion adds variance too, so the
    quiet tenth of all tiles decides; a lower bound wherever less than that is at rest.
    """
    ratios = []
    for block in blocks:
        n, height, width = block.frames.shape
        if n < 2 or min(height, width) < TILE:
            continue
        difference = over_time(block.frames, 2, square=False)
        difference = difference - box_mean(difference, TILE // 2)
        kept = ~(block.bad | block.clipped)
        kept = kept[1:] & kept[:-1]
        mean = over_time(block.frames, 2, square=True)

        share = tile_means(kept)
        whole = share > 0.95
        predicted = line.at(tile_means(mean * kept)[whole] / share[whole])
        found = tile_means(np.square(difference) * kept)[whole] / share[whole]
        ratios.append((found / predicted)[predicted > 0])
    joined = np.concatenate(ratios) if ratios else np.empty(0)
    if joined.size < 50:
        return 1.0
    spread = 2.0 / (9.0 * TILE * TILE)
    tenth = (1.0 - spread - 1.2816 * np.sqrt(spread)) ** 3  # of chi-square / nu, Wilson-Hilferty
    whole_box = (TILE + 1) ** 2
    return float(np.quantile(joined, 0.1) / tenth * whole_box / (whole_box - 1))
