"""Filters that cancel what a movie shows and keep its noise, and what they give a pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

TILE = 8  # side of the tiles that are accepted or rejected whole [px]
GROUPS = 24  # jackknife groups
_RADIUS = {2: 2, 4: 4, 8: 6, 0: 2}  # band -> kernel radius [px]


@dataclass(frozen=True)
class Block:
    """Consecutive frames of one window, scaled, with the pixels that must not count."""

    frames: Float32Array  # (n, H, W)
    bad: BoolArray  # (n, H, W)
    clipped: BoolArray  # (n, H, W), at the smallest or the largest value of the movie


@dataclass(frozen=True)
class Samples:
    """One number a pixel of every usable frame, flattened."""

    squared: Float32Array  # d**2
    mean: Float32Array  # h**2-weighted mean of what entered d
    level: Float32Array  # intensity from other frames
    clipped: Float32Array  # share of pixels nearby at the movie's limits
    tile: IntArray
    group: IntArray
    n_tiles: int


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


def collect(blocks: list[Block], run: int, band: int) -> Samples | None:
    """Filter all blocks: each frame less the others of its run, then the spatial high-pass."""
    kernel = spatial_kernel(band)
    radius = kernel.shape[0] // 2
    parts: list[tuple[NDArray[Any], ...]] = []
    n_tiles = 0
    for block in blocks:
        n, height, width = block.frames.shape
        if n < (4 if run > 2 else 2) or min(height, width) < 2 * radius + 2:
            continue
        inner = (slice(None), slice(radius, -radius), slice(radius, -radius))
        high = _valid_convolution(block.frames, kernel)
        mean = _valid_convolution(block.frames, kernel**2)
        difference, mean = over_time(high, run, square=False), over_time(mean, run, square=True)
        level = levels(block.frames, pairs=run == 2)[inner]
        bad = _spread(block.bad, min(radius, 3))[inner] > 1e-4
        clipped = _spread(block.clipped, 1)[inner]
        if run == 2:
            bad, clipped = bad[1:] | bad[:-1], (clipped[1:] + clipped[:-1]) / 2.0
        rows = np.arange(mean.shape[1]) // TILE
        columns = np.arange(mean.shape[2]) // TILE
        across = int(columns[-1]) + 1
        per_frame = (int(rows[-1]) + 1) * across
        flat = rows[:, None] * across + columns[None, :]
        tile = n_tiles + np.arange(len(mean))[:, None, None] * per_frame + flat
        group = (rows[:, None] * 5 + columns[None, :] + n_tiles) % GROUPS
        group = np.broadcast_to(group, mean.shape) if per_frame >= GROUPS else tile % GROUPS
        n_tiles += len(mean) * per_frame
        arrays = (np.square(difference), mean, level, clipped, tile, group)
        parts.append(tuple(array[~bad] for array in arrays))
    if not parts or sum(len(part[0]) for part in parts) < 64:
        return None
    squared, means, level, clipped, tiles, groups = map(np.concatenate, zip(*parts, strict=True))
    return Samples(squared, means, level, clipped, tiles, groups, n_tiles)


def tile_means(values: NDArray[np.generic]) -> FloatArray:
    """Return means over whole tiles, (n, H // tile, W // tile)."""
    n, rows, columns = len(values), values.shape[1] // TILE, values.shape[2] // TILE
    cut = values[:, : rows * TILE, : columns * TILE].astype(np.float64)
    return np.asarray(cut.reshape(n, rows, TILE, columns, TILE).mean(axis=(2, 4)))


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


def _spread(mask: BoolArray, radius: int) -> Float32Array:
    """Return the share of a mask in the box around each pixel."""
    share = mask.astype(np.float32)
    return box_mean(share, radius) if mask.any() else share


def over_time(values: Float32Array, run: int, *, square: bool) -> Float32Array:
    """Filter along time: overlapping frame pairs, or each frame less others of its run.

    The filter has unit energy; ``square`` gives the local mean under its squared weights instead.
    """
    if run == 2:
        if square:
            return (values[1:] + values[:-1]) / np.float32(2.0)
        return (values[1:] - values[:-1]) / np.float32(np.sqrt(2.0))
    parts = []
    for part in np.array_split(values, -(-len(values) // run)):
        weights = time_filter(len(part))
        weights = weights**2 if square else weights
        parts.append(np.tensordot(weights.astype(np.float32), part, axes=1))
    return np.concatenate(parts)


def time_filter(n: int) -> FloatArray:
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
