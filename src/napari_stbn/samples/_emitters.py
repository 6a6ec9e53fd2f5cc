"""Structures drawn as moving point emitters: filaments, vesicles, membranes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter1d

from napari_stbn.samples._bodies import wander, wave
from napari_stbn.samples._canvas import REFERENCE_PSF, Array, Canvas

if TYPE_CHECKING:
    from collections.abc import Sequence

LINE = 1.0 / (np.sqrt(2 * np.pi) * REFERENCE_PSF)
"""Peak of a line of emitters 1 px apart is 1 where each has this peak alone."""


def along(rng: np.random.Generator, n: int, scale: float, *, closed: bool = False) -> Array:
    """Smooth random curve of unit standard deviation over n emitters, shape (n,)."""
    mode = "wrap" if closed else "reflect"
    smooth = gaussian_filter1d(rng.standard_normal(n), scale, mode=mode)
    return np.asarray((smooth - smooth.mean()) / (smooth.std() + 1e-12))


def add_filament(
    canvas: Canvas,
    rng: np.random.Generator,
    times: Array,
    start: Array,
    heading: float,
    length: float,
    brightness: float,
    *,
    centred: bool,
) -> None:
    """Add a curved filament of varying brightness that drifts and bends.

    ``start`` (x, y) is one end, or the middle where ``centred``; length in px.
    """
    n = max(8, int(length))
    curvature = rng.normal(0, 0.008) + 0.012 * along(rng, n, 14.0)
    tangent = heading + np.cumsum(curvature)
    steps = np.stack([np.cos(tangent), np.sin(tangent)], axis=1)
    normal = np.stack([-steps[:, 1], steps[:, 0]], axis=1)
    base = np.cumsum(steps, axis=0)
    base += start - (base[n // 2] if centred else base[0])
    place = np.linspace(0.0, 1.0, n)
    bend = np.zeros((len(times), n))
    for k in (1, 2, 3):
        size = min(7.0, 0.08 * length) / k**1.3
        phase = rng.uniform(0, 2 * np.pi)
        bend += wave(rng, times, size, 26.0 / np.sqrt(k))[:, None] * np.sin(
            k * np.pi * place + (phase if centred else 0.0)
        )
    paths = base[None] + bend[:, :, None] * normal[None]
    if centred:
        paths = paths + wander(rng, times, 0.9, 8.0)[:, None, :]
    profile = np.clip(1.0 + 0.28 * along(rng, n, 5.0) + 0.12 * along(rng, n, 1.0), 0.1, 1.8)
    ends = np.clip(np.minimum(np.arange(n), np.arange(n)[::-1]) / 6.0, 0.15, 1.0)
    if not centred:
        ends = np.clip(np.arange(n)[::-1] / 10.0, 0.1, 1.0)
    light = brightness * LINE * profile * ends
    canvas.add_emitters(paths, light)
    canvas.add_emitters(paths, 0.05 * light, spread=3.0)  # what lies above and below the focus


def vesicle_paths(
    rng: np.random.Generator,
    n_frames: int,
    n: int,
    height: int,
    width: int,
    *,
    motion: float,
    obstacles: Sequence[tuple[Array, float]] = (),
) -> Array:
    """Directed runs of 1-4 px a frame, pauses and diffusion, shape (T, n, 2) [px], ordered (x, y).

    Vesicles turn back a little outside of the frame and at the obstacles (centre, radius).
    """
    low, high = np.full(2, -5.0), np.array([width + 4.0, height + 4.0])
    position = rng.uniform(0, 1, (n, 2)) * np.array([width - 1.0, height - 1.0])
    heading, speed = rng.uniform(0, 2 * np.pi, n), rng.uniform(1.0, 4.0, n)
    running = rng.random(n) < 0.75
    paths = np.empty((n_frames, n, 2))
    for t in range(n_frames):
        if t:
            towards = np.stack([np.cos(heading), np.sin(heading)], axis=1)
            run = np.where(running, speed, 0.0)[:, None] * towards
            step = motion * (run + rng.normal(0, np.where(running, 0.25, 0.6)[:, None], (n, 2)))
            heading = heading + rng.normal(0, 0.12, n)
            switch = rng.random(n) < np.where(running, 0.06, 0.25)
            running = running ^ switch
            heading = np.where(switch, rng.uniform(0, 2 * np.pi, n), heading)
            speed = np.where(switch, rng.uniform(1.0, 4.0, n), speed)
            position = position + step
        for centre, radius in obstacles:
            apart = position - centre
            distance = np.hypot(*apart.T)
            inside = distance < radius
            outward = apart / np.maximum(distance, 1e-9)[:, None]
            pushed = centre + outward * radius
            position = np.where(inside[:, None], pushed, position)
            heading = np.where(inside, np.arctan2(outward[:, 1], outward[:, 0]), heading)
        beyond = (position < low) | (position > high)
        heading = np.where(beyond[:, 0], np.pi - heading, heading)
        heading = np.where(beyond[:, 1], -heading, heading)
        position = np.where(position < low, 2 * low - position, position)
        position = np.clip(np.where(position > high, 2 * high - position, position), low, high)
        paths[t] = position
    return paths


def add_vesicles(
    canvas: Canvas,
    rng: np.random.Generator,
    n: int,
    *,
    motion: float,
    brightness: tuple[float, float],
    obstacles: Sequence[tuple[Array, float]] = (),
) -> None:
    """Add vesicles between the two brightnesses, the dim ones more frequent."""
    paths = vesicle_paths(
        rng,
        canvas.n_frames,
        n,
        canvas.height,
        canvas.width,
        motion=motion,
        obstacles=obstacles,
    )
    low, high = brightness
    peaks = low * (high / low) ** rng.uniform(0, 1, n)
    spreads = rng.uniform(0.0, 0.9, n)
    blurred = rng.random(n) < 0.2  # out of focus
    peaks = np.where(blurred, 0.4 * peaks, peaks)
    spreads = np.where(blurred, rng.uniform(1.5, 2.5, n), spreads)
    for i in range(n):
        canvas.add_emitters(paths[:, i : i + 1], peaks[i : i + 1], spread=float(spreads[i]))


def add_membrane(
    canvas: Canvas,
    rng: np.random.Generator,
    times: Array,
    centre: Array,
    radius: float,
    brightness: float,
) -> None:
    """Add a closed thin contour that moves, turns and deforms, uneven, with granular cytosol."""
    n = max(16, int(2 * np.pi * radius * 1.15))
    theta = np.arange(n) * 2 * np.pi / n
    swell = np.ones((len(times), n))
    slide = np.zeros((len(times), n))
    for k, size in ((2, 0.18), (3, 0.12), (4, 0.07), (5, 0.06), (7, 0.04), (11, 0.02)):
        phase = rng.uniform(0, 2 * np.pi)
        fixed = 0.6 * size * rng.uniform(0.5, 1.0)
        moving = 0.7 * wave(rng, times, size, 40.0 / np.sqrt(k))
        swell += (fixed + moving)[:, None] * np.cos(k * theta + phase)
        slide += 0.02 * wave(rng, times, 1.0, 30.0)[:, None] * np.sin(k * theta)
    turn = rng.uniform(-0.02, 0.02) * times[:, None]
    angle = theta + slide + turn
    reach = radius * swell
    paths = np.stack([reach * np.cos(angle), reach * np.sin(angle)], axis=2)
    paths += (centre + wander(rng, times, 0.8, 5.0))[:, None, :]
    profile = 1.0 + 0.35 * along(rng, n, 9.0, closed=True) + 0.2 * along(rng, n, 1.5, closed=True)
    profile = np.clip(profile, 0.15, 2.0)
    for _ in range(int(rng.integers(2, 6))):  # patches and folds
        gap = np.abs((theta - rng.uniform(0, 2 * np.pi) + np.pi) % (2 * np.pi) - np.pi) * radius
        profile += rng.uniform(0.4, 1.0) * np.exp(-(gap**2) / (2 * 1.5**2))
    light = brightness * LINE / 1.15 * profile
    canvas.add_emitters(paths, light)
    canvas.add_emitters(paths, 0.06 * light, spread=3.0)
    middle = paths.mean(axis=1, keepdims=True)
    grains = max(12, int(0.12 * np.pi * radius**2))
    depth = np.sqrt(rng.uniform(0, 0.85, grains))[:, None]
    inside = middle + depth * (paths[:, rng.integers(0, n, grains)] - middle)
    amounts = brightness * rng.exponential(0.03, grains)
    canvas.add_emitters(inside, amounts, spread=1.6)
    canvas.add_emitters(inside[:, :6], brightness * rng.uniform(0.1, 0.4, min(6, grains)))
