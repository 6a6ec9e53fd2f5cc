"""Scenes made of random fields, for `pretrain.py`: textures without outlines that change in place.

A texture stands still, is carried along, beats or turns into another one, while its brightness
follows waves that move on their own, as calcium does over a tissue. Neither the simulator's bodies
nor opaque pieces look like that.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

Array = NDArray[np.float64]

__all__ = ["random_fields"]

_MARGIN = 1e-9  # added to a standard deviation
_WAYS = {"still": 0.35, "drift": 0.2, "swirl": 0.2, "beat": 0.15, "shake": 0.1}  # how often


def random_fields(
    shape: tuple[int, int, int], rng: np.random.Generator, *, psf_sigma: float, motion: float
) -> Array:
    """Light of a scene of fields.

    Parameters
    ----------
    shape : (T, Y, X)
    rng : numpy.random.Generator
    psf_sigma : float [px]
        Of the blur.
    motion : float
        Factor on every speed.

    Returns
    -------
    ndarray, shape (T, Y, X)
        Positive, with a maximum of about 1.
    """
    frames, height, width = shape
    grain = float(np.exp(rng.uniform(np.log(1.0), np.log(4))))
    ways = _ways(shape, rng, motion)
    look, strength = str(rng.choice(["even", "spots", "phases", "threads"])), rng.uniform(0.15, 1)
    first, second = (_field((height, width), grain, rng) for _ in range(2))
    turning = motion * rng.uniform(0.02, 0.3) if rng.random() < 0.3 else 0.0
    light = np.empty(shape)
    for t in range(frames):
        angle = turning * t
        texture = np.cos(angle) * first + np.sin(angle) * second
        moved = map_coordinates(texture, ways[t], order=3, mode="grid-wrap")
        light[t] = _looks(moved, look, strength)
    light *= _waves(shape, rng, motion)
    light += rng.uniform(0, 0.5) * light.mean() * _ground((height, width), rng)
    light = gaussian_filter(light, (0, psf_sigma, psf_sigma), mode="wrap")
    return np.asarray(np.maximum(light, 1e-3 * light.max()) / light.max())


def _field(
    size: tuple[int, ...], sigma: float | tuple[float, ...], rng: np.random.Generator
) -> Array:
    """Smooth noise, mean 0 and standard deviation 1, that wraps around."""
    smooth = gaussian_filter(rng.standard_normal(size), sigma, mode="wrap")
    return np.asarray((smooth - smooth.mean()) / (smooth.std() + _MARGIN))


def _looks(field: Array, look: str, strength: float) -> Array:
    """What a field of standard deviation 1 looks like."""
    if look == "even":
        return np.maximum(1 + 0.5 * strength * field, 0)
    if look == "spots":
        return np.asarray(np.exp(1.2 * strength * field))
    if look == "phases":
        return np.asarray(1.05 + np.tanh(4 * strength * field))
    return np.asarray(np.exp(-np.square(field / (0.15 + 0.3 * strength))))


def _ground(size: tuple[int, int], rng: np.random.Generator) -> Array:
    """Uneven light that stands still."""
    return np.maximum(1 + 0.3 * _field(size, 12.0, rng), 0)


def _waves(shape: tuple[int, int, int], rng: np.random.Generator, motion: float) -> Array:
    """Brightness that changes in place, (T, Y, X); 1 in two scenes of five."""
    if rng.random() < 0.4:
        return np.ones(shape)
    frames, height, width = shape
    quick, wide = rng.uniform(1, 5), rng.uniform(4, 20)
    field = _field((2 * frames, height, width), (quick, wide, wide), rng)[:frames]
    dy, dx = rng.normal(0, 2.5, 2) * motion
    y, x = np.mgrid[:height, :width].astype(float)
    for t in range(frames):
        field[t] = map_coordinates(field[t], [y - dy * t, x - dx * t], order=1, mode="grid-wrap")
    return np.asarray(np.exp(rng.uniform(0.3, 1.5) * field))


def _ways(
    shape: tuple[int, int, int], rng: np.random.Generator, motion: float
) -> list[list[Array]]:
    """Where each pixel of each frame comes from."""
    frames, height, width = shape
    y, x = np.mgrid[:height, :width].astype(float)
    kind = str(rng.choice([*_WAYS], p=[*_WAYS.values()]))
    dy, dx = rng.normal(0, 1.0, 2) * motion
    stream = _field((height, width), rng.uniform(6, 16), rng)
    sway = np.gradient(stream * rng.uniform(3, 12) * motion)
    pace, phase = rng.uniform(0.4, 1.6), rng.uniform(0, 2 * np.pi)
    ways = []
    for t in range(frames):
        shift_y, shift_x = np.zeros_like(y), np.zeros_like(x)
        if kind == "drift":
            shift_y, shift_x = dy * t + shift_y, dx * t + shift_x
        elif kind == "swirl":  # little by little: what a still stream does to a stain
            shift_y, shift_x = 0.3 * t * sway[1] + dy * t, -0.3 * t * sway[0] + dx * t
        elif kind == "beat":
            out = np.maximum(0, np.sin(pace * t + phase)) ** 2
            shift_y, shift_x = 2 * out * sway[1], -2 * out * sway[0]
        elif kind == "shake":
            jump = rng.uniform(-1.5, 1.5, 2) * motion
            shift_y, shift_x = jump[0] + shift_y, jump[1] + shift_x
        ways.append([y - shift_y, x - shift_x])
    return ways
