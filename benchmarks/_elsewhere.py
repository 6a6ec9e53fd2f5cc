"""Scenes that no weights of ours have seen: drawn by other means than the simulator's.

Training and the other tables take their movies from ``napari_stbn.simulate``. These are what else
people record, each written down from what it looks like: nothing here is shared with the simulator
or the pieces of the training. Every scene is clean light from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Shape = tuple[int, int, int]
Light = NDArray[np.float64]
Scene = Callable[[Shape, np.random.Generator], Light]

__all__ = ["SCENES", "scene"]


def scene(name: str, shape: Shape, seed: int) -> Light:
    """Clean light of one scene.

    Parameters
    ----------
    name : str
        One of ``SCENES``.
    shape : (T, Y, X)
    seed : int

    Returns
    -------
    ndarray, shape (T, Y, X)
        From 0 to 1.
    """
    light = SCENES[name](shape, np.random.default_rng(seed))
    return np.clip(light / np.percentile(light, 99.9), 0, 1.5)


def _texture(size: tuple[int, ...], sigma: float, rng: np.random.Generator) -> Light:
    """Smooth noise of mean 0 and standard deviation 1 that tiles the plane."""
    smooth = ndimage.gaussian_filter(rng.standard_normal(size), sigma, mode="wrap")
    return np.asarray((smooth - smooth.mean()) / smooth.std())


def _spots(frame: Light, y: Light, x: Light, bright: Light, sigma: float) -> None:
    """Add Gaussian spots to a frame, in place."""
    reach = int(np.ceil(4 * sigma))
    height, width = frame.shape
    for cy, cx, light in zip(y, x, bright, strict=True):
        top, left = round(float(cy)) - reach, round(float(cx)) - reach
        rows = np.arange(max(0, top), min(height, top + 2 * reach + 1))
        columns = np.arange(max(0, left), min(width, left + 2 * reach + 1))
        if light <= 0 or not len(rows) or not len(columns):
            continue
        down = np.exp(-0.5 * ((rows - cy) / sigma) ** 2)
        across = np.exp(-0.5 * ((columns - cx) / sigma) ** 2)
        frame[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] += light * np.outer(
            down, across
        )


def _calcium(shape: Shape, rng: np.random.Generator) -> Light:
    """Still rings of neurons that flash and fade over a neuropil that breathes."""
    frames, height, width = shape
    y, x = np.mgrid[:height, :width]
    slow = ndimage.gaussian_filter1d(rng.standard_normal(frames), 3)
    movie = 0.25 + 0.04 * _texture((height, width), 2, rng) + 0.1 * slow[:, None, None]
    for _ in range(height * width // 350):
        cy, cx, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(4, 6)
        distance = np.hypot(y - cy, x - cx)
        ring = np.exp(-0.5 * ((distance - 0.75 * radius) / 1.3) ** 2)
        spikes = rng.random(frames) < 0.06
        trace = np.convolve(spikes, np.exp(-np.arange(frames) / 4.0))[:frames]
        movie = movie + ring * (0.15 + 0.9 * trace[:, None, None])
    return np.asarray(movie)


def _wave(shape: Shape, rng: np.random.Generator) -> Light:
    """A spiral wave that turns over a still tissue."""
    frames, height, width = shape
    y, x = np.mgrid[:height, :width]
    dy, dx = y - 0.45 * height, x - 0.55 * width
    angle, distance = np.arctan2(dy, dx), np.hypot(dy, dx)
    tissue = 1 + 0.25 * _texture((height, width), 1.5, rng)
    phases = 2 * np.pi * np.arange(frames)[:, None, None] / 11
    front = np.cos(angle - distance / 7 + phases)
    return np.asarray(tissue * (0.2 + np.exp(2.5 * (front - 1))))


def _blood(shape: Shape, rng: np.random.Generator) -> Light:
    """Dark cells that run single file through bright, winding, still vessels."""
    frames, height, width = shape
    movie = np.full(shape, 0.03)
    y, x = np.mgrid[:height, :width]
    for _ in range(max(2, height // 24)):
        middle, sway, turns = rng.uniform(0.1, 0.9) * height, rng.uniform(3, 9), rng.uniform(0.5, 2)
        course = middle + sway * np.sin(turns * 2 * np.pi * x / width + rng.uniform(0, 6))
        walls = 1 / (1 + np.exp((np.abs(y - course) - rng.uniform(2, 4)) / 0.6))
        speed, gaps = rng.uniform(1, 5), np.cumsum(rng.uniform(6, 18, 200)) - 400
        for t in range(frames):
            along = x - speed * t
            cell = np.exp(-0.5 * (np.abs(along[..., None] - gaps).min(-1) / 1.8) ** 2)
            movie[t] = np.maximum(movie[t], walls * (1 - 0.85 * cell))
    return movie


def _comets(shape: Shape, rng: np.random.Generator) -> Light:
    """Ends of microtubules: many small comets, straight on, that come and go."""
    frames, height, width = shape
    movie = np.zeros(shape)
    movie += 0.08 * ndimage.gaussian_filter(rng.random((height, width)), 4)
    for _ in range(height * width * frames // 2500):
        born, lasts = int(rng.integers(-8, frames)), int(rng.integers(5, 14))
        at, angle, speed = rng.uniform(0, 1, 2) * (height, width), rng.uniform(0, 6.3), 1.6
        step = speed * np.array([np.sin(angle), np.cos(angle)])
        for t in range(max(0, born), min(frames, born + lasts)):
            tail = at + step * (t - born) - step / speed * np.arange(5)[:, None]
            _spots(movie[t], tail[:, 0], tail[:, 1], np.exp(-np.arange(5) / 1.8), 1.1)
    return movie


def _heart(shape: Shape, rng: np.random.Generator) -> Light:
    """Textured tissue that beats: the whole of it, by several pixels, seven frames a beat."""
    frames, height, width = shape
    size = height, width
    tissue = np.exp(0.6 * _texture(size, 1.6, rng) + 0.5 * _texture(size, 9, rng))
    y, x = np.mgrid[:height, :width].astype(float)
    movie = np.empty(shape)
    for t in range(frames):
        beat = np.maximum(0, np.sin(2 * np.pi * t / 7.3)) ** 2
        squeeze = 1 + 0.16 * beat
        turn = 0.08 * beat
        dy, dx = y - height / 2, x - width / 2
        where = [
            height / 2 + squeeze * (dy * np.cos(turn) - dx * np.sin(turn)),
            width / 2 + squeeze * (dy * np.sin(turn) + dx * np.cos(turn)),
        ]
        movie[t] = ndimage.map_coordinates(tissue, where, order=3, mode="grid-wrap")
    return movie


def _molecules(shape: Shape, rng: np.random.Generator) -> Light:
    """Single molecules on glass: each shines for a few frames and is gone."""
    frames, height, width = shape
    movie = np.full(shape, 0.05)
    for _ in range(height * width * frames // 3000):
        born, lasts = int(rng.integers(-3, frames)), 1 + int(rng.geometric(0.4))
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        for t in range(max(0, born), min(frames, born + lasts)):
            _spots(movie[t], np.array([y]), np.array([x]), rng.uniform(0.7, 1.3, 1), 1.3)
    return movie


def _fluid(shape: Shape, rng: np.random.Generator) -> Light:
    """A stain that is carried along by a turbulent flow, and drawn out by it."""
    frames, height, width = shape
    stain = _texture((height, width), 2, rng)
    stream = 7 * _texture((height, width), 9, rng)
    vy, vx = np.gradient(stream)
    y, x = np.mgrid[:height, :width].astype(float)
    movie = np.empty(shape)
    for t in range(frames):
        movie[t] = 1.1 + np.tanh(stain)
        stain = ndimage.map_coordinates(stain, [y - vx, x + vy], order=3, mode="grid-wrap")
        stain += 0.15 * (_texture((height, width), 2, rng))
    return movie


def _particles(shape: Shape, rng: np.random.Generator) -> Light:
    """Dense beads in a vortex, up to six pixels a frame."""
    frames, height, width = shape
    count = height * width // 60
    y, x = rng.uniform(-10, height + 10, count), rng.uniform(-10, width + 10, count)
    bright = rng.uniform(0.3, 1, count)
    movie = np.zeros(shape)
    for t in range(frames):
        _spots(movie[t], y, x, bright, 1.0)
        dy, dx = y - height / 2, x - width / 2
        turn = 0.13 * np.exp(-(dy**2 + dx**2) / (0.35 * height) ** 2)
        y, x = y + turn * dx + 0.5, x - turn * dy
        y, x = (y + 10) % (height + 20) - 10, (x + 10) % (width + 20) - 10
    return movie


def _shaky(shape: Shape, rng: np.random.Generator) -> Light:
    """A still, sharp pattern on a stage that shakes by up to two pixels from frame to frame."""
    frames, height, width = shape
    y, x = np.mgrid[:height, :width].astype(float)
    movie = np.empty(shape)
    for t in range(frames):
        sy, sx = rng.uniform(-2, 2, 2)
        dy, dx = y - height / 2 + sy, x - width / 2 + sx
        spokes = np.sin(18 * np.arctan2(dy, dx)) * np.minimum(1, np.hypot(dy, dx) / 18)
        movie[t] = ndimage.gaussian_filter(1 / (1 + np.exp(-6 * spokes)), 0.8)
    return movie


def _faint(shape: Shape, rng: np.random.Generator) -> Light:
    """A bright ground with cells that crawl, a few per cent darker or brighter than it."""
    frames, height, width = shape
    y, x = np.mgrid[:height, :width]
    movie = 1 + 0.05 * _texture((height, width), 15, rng)[None] + np.zeros(shape)
    for _ in range(height * width // 700):
        at, step = rng.uniform(0, 1, 2) * (height, width), rng.normal(0, 0.5, 2)
        size, shade = rng.uniform(3, 7), rng.uniform(0.05, 0.15)
        for t in range(frames):
            at = at + step + rng.normal(0, 0.3, 2)
            distance = np.hypot(y - at[0], x - at[1]) / size
            movie[t] += shade * (np.exp(-8 * (distance - 1) ** 2) - np.exp(-2 * distance**2))
    return np.asarray(movie - 0.5 * movie.min())


def _flicker(shape: Shape, rng: np.random.Generator) -> Light:
    """A network of threads that drifts, under a lamp that flickers by a fifth."""
    frames, height, width = shape
    threads = np.exp(-((_texture((2 * height, 2 * width), 5, rng) / 0.22) ** 2))
    threads *= 1 + 0.4 * _texture((2 * height, 2 * width), 8, rng)
    movie = np.empty(shape)
    for t in range(frames):
        moved = ndimage.shift(threads, (0.4 * t, 0.25 * t), order=3, mode="grid-wrap")
        movie[t] = np.maximum(moved[:height, :width], 0) * rng.uniform(0.8, 1.2)
    return movie


def _division(shape: Shape, rng: np.random.Generator) -> Light:
    """Chromosomes: bright rods that gather to a plate and are drawn apart."""
    frames, height, width = shape
    movie = np.full(shape, 0.04)
    for _ in range(max(1, height * width // 2500)):
        middle, axis = rng.uniform(0.15, 0.85, 2) * (height, width), rng.uniform(0, 3.14)
        along = np.array([np.sin(axis), np.cos(axis)])
        across = along[::-1] * (1, -1)
        starts = rng.uniform(0.25, 0.7) * frames
        places, tilt = rng.normal(0, 5, (24, 2)), rng.normal(0, 0.7, 24)
        for t in range(frames):
            gathered = min(1.0, t / (0.8 * starts))
            apart = np.clip((t - starts) * 0.9, 0, 9)
            for i, (a, b) in enumerate(places):
                side = 1 if i % 2 else -1
                centre = (
                    middle
                    + along * (a * (1 - gathered) + side * apart)
                    + across * (b * (1 - 0.2 * gathered))
                )
                rod = np.linspace(-2, 2, 7)[:, None] * (across + tilt[i] * along)
                at = centre + rod
                _spots(movie[t], at[:, 0], at[:, 1], np.full(7, 0.3), 1.0)
    return movie


SCENES: dict[str, Scene] = {
    "calcium": _calcium,
    "wave": _wave,
    "blood": _blood,
    "comets": _comets,
    "heart": _heart,
    "molecules": _molecules,
    "fluid": _fluid,
    "particles": _particles,
    "shaky": _shaky,
    "faint": _faint,
    "flicker": _flicker,
    "division": _division,
}
