"""Moving scenes of opaque textured pieces, for `pretrain.py`: what fluorescence does not look like.

Each piece hides those below it ("dead leaves"), carries its own texture, and moves, turns and grows
on its own. Brightfield, phase contrast, tissue and natural video have such edges and textures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates, zoom

Array = NDArray[np.float64]

_FINE = 2  # samples a pixel, along y and x
_BANK = 256  # side of the textures that pieces are cut from
_FRAMES_OF_LIFE = 32  # displacements are drawn for so many frames


@dataclass(frozen=True)
class _Piece:
    """One piece: its outline, texture and path."""

    centre: Array  # (T, 2), y and x [px]
    angle: Array  # (T,)
    size: Array  # (T,) [px]
    lobes: Array  # (3, 2): amplitude and phase of the outline's waves
    stretch: float
    level: float
    contrast: float
    texture: int
    corner: Array  # (2,), where the texture is cut

    def paint(self, frame: Array, t: int, bank: list[Array]) -> None:
        """Lay the piece over a frame."""
        reach = 1.6 * self.size[t] * max(self.stretch, 1 / self.stretch)
        low = np.maximum(np.floor((self.centre[t] - reach) * _FINE).astype(int), 0)
        high = np.minimum(
            np.ceil((self.centre[t] + reach) * _FINE).astype(int) + 1, np.array(frame.shape)
        )
        if np.any(high <= low):
            return
        y, x = np.mgrid[low[0] : high[0], low[1] : high[1]] / _FINE
        dy, dx = y - self.centre[t, 0], x - self.centre[t, 1]
        cos, sin = np.cos(self.angle[t]), np.sin(self.angle[t])
        u = (cos * dx + sin * dy) / self.size[t] * self.stretch
        v = (cos * dy - sin * dx) / self.size[t] / self.stretch
        around = np.arctan2(v, u)
        edge = 1 + sum(
            a * np.cos((k + 2) * around + p) for k, (a, p) in enumerate(self.lobes.tolist())
        )
        inside = np.hypot(u, v) < edge
        at = np.stack([v, u])[:, inside] * self.size[0] + self.corner[:, None]
        grain = map_coordinates(bank[self.texture], at, order=1, mode="grid-wrap")
        frame[low[0] : high[0], low[1] : high[1]][inside] = self.level * (1 + self.contrast * grain)


def moving_leaves(
    shape: tuple[int, int, int], rng: np.random.Generator, *, psf_sigma: float, motion: float
) -> NDArray[np.float64]:
    """Light of a scene of pieces.

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
    bank = [_texture(rng) for _ in range(4)]
    drift = rng.normal(0, 0.8, 2) * motion
    least = rng.uniform(2, 6)
    count = int(rng.uniform(0.5, 2.0) * height * width / (least * 22) / 2) + 12
    spread = rng.uniform(0.2, 1.0)  # of the levels
    pieces = [
        _piece(rng, frames, (height, width), least, drift, motion, spread) for _ in range(count)
    ]
    # A ground that covers everything, so that no pixel is empty.
    ground = 0.5 + 0.2 * spread * bank[0][: height * _FINE, : width * _FINE]
    if ground.shape != (height * _FINE, width * _FINE):
        ground = np.resize(ground, (height * _FINE, width * _FINE))
    light = np.empty(shape)
    for t in range(frames):
        frame = ground.copy()
        for piece in pieces:
            piece.paint(frame, t, bank)
        blurred = gaussian_filter(frame, psf_sigma * _FINE, mode="nearest")
        light[t] = blurred.reshape(height, _FINE, width, _FINE).mean((1, 3))
    if rng.random() < 0.3:  # phase contrast: edges with halos on an even ground
        wide = gaussian_filter(light, (0, 5, 5), mode="nearest")
        light = 0.5 + rng.uniform(0.5, 1.5) * (light - wide)
    light = np.maximum(light, 0.02)
    return np.asarray(light / light.max())


def _piece(
    rng: np.random.Generator,
    frames: int,
    area: tuple[int, int],
    least: float,
    drift: Array,
    motion: float,
    spread: float,
) -> _Piece:
    """Draw one piece; small ones are many, large ones few."""
    times = np.arange(frames)
    size = min(least / np.sqrt(rng.uniform(0.01, 1)), 0.4 * min(area))
    speed = drift + rng.normal(0, 0.7, 2) * motion * rng.choice([0.2, 1.0, 2.5])
    reach = np.abs(speed) * _FRAMES_OF_LIFE / 2
    start = rng.uniform(-reach - size, np.array(area) + reach + size)
    wobble = rng.normal(0, 1.0, 2) * motion
    phase, pace = rng.uniform(0, 2 * np.pi, 2), rng.uniform(0.1, 0.5)
    centre = (
        start
        + speed * (times[:, None] - frames / 2)
        + wobble * np.sin(pace * times[:, None] + phase)
    )
    turning = rng.normal(0, 0.03) * motion
    growing = rng.normal(0, 0.004) * motion
    return _Piece(
        centre=centre,
        angle=np.asarray(rng.uniform(0, 2 * np.pi) + turning * times, np.float64),
        size=size * np.exp(growing * times),
        lobes=np.stack(
            [rng.uniform(0, 0.12, 3) * rng.choice([0.0, 1.0]), rng.uniform(0, 2 * np.pi, 3)], 1
        ),
        stretch=float(np.exp(rng.normal(0, 0.3))),
        level=float(np.clip(0.5 + 0.5 * spread * rng.uniform(-1, 1), 0.02, 1)),
        contrast=float(rng.choice([0.0, 0.1, 0.3])) * float(rng.uniform(0.3, 1)),
        texture=int(rng.integers(4)),
        corner=rng.uniform(0, _BANK, 2),
    )


def _texture(rng: np.random.Generator) -> Array:
    """Noise with a power spectrum of its own slope, of unit variance; it wraps around."""
    y, x = np.meshgrid(*[np.fft.fftfreq(_BANK)] * 2, indexing="ij")
    radius = np.maximum(np.hypot(y, x), 1 / _BANK)
    spectrum: NDArray[Any] = np.fft.fft2(rng.normal(size=(_BANK, _BANK)))
    grain = np.fft.ifft2(spectrum * radius ** -rng.uniform(0.5, 1.6)).real
    if rng.random() < 0.3:  # stripes and ripples
        grain = zoom(grain[:, : _BANK // 4], (1, 4), order=1, mode="grid-wrap", grid_mode=True)
    return np.asarray((grain - grain.mean()) / grain.std())
