"""Canvas on which moving structures leave their light and their true motion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import erf

Array = npt.NDArray[np.float64]
Flow = npt.NDArray[np.float32]

REFERENCE_PSF = 1.2
"""PSF sigma [px] at which the brightness of an emitter equals its peak in the image."""

ROUND_OFF = 1e-6
"""Displacements [px] below this are round-off of the inverse motion, and are no motion."""


@dataclass(frozen=True)
class Box:
    """Rectangle of pixels [y0, y1) x [x0, x1); may reach beyond the frame."""

    y0: int
    y1: int
    x0: int
    x1: int

    @classmethod
    def around(cls, low: Array, high: Array, margin: float) -> Box:
        """Smallest box holding the points from ``low`` to ``high`` (x, y) and a margin [px]."""
        x0, y0 = np.floor(low - margin).astype(int)
        x1, y1 = np.ceil(high + margin).astype(int) + 1
        return cls(int(y0), int(y1), int(x0), int(x1))

    def clipped(self, height: int, width: int, margin: int = 0) -> Box:
        """Return the part inside of the frame widened by ``margin`` pixels."""
        return Box(
            max(self.y0, -margin),
            min(self.y1, height + margin),
            max(self.x0, -margin),
            min(self.x1, width + margin),
        )

    @property
    def empty(self) -> bool:
        """Whether no pixel is left."""
        return self.y1 <= self.y0 or self.x1 <= self.x0

    def grid(self) -> tuple[Array, Array]:
        """Pixel centres x and y, both of shape (height, width)."""
        y, x = np.mgrid[self.y0 : self.y1, self.x0 : self.x1].astype(np.float64)
        return x, y


class Canvas:
    """Sum of the light of all structures, and the motion of the brightest one at each pixel.

    Parameters
    ----------
    n_frames, height, width : int
        Shape of the movie.
    psf_sigma : float [px]
        Standard deviation of the Gaussian point-spread function.
    """

    def __init__(self, n_frames: int, height: int, width: int, psf_sigma: float) -> None:
        self.n_frames, self.height, self.width = n_frames, height, width
        self.psf_sigma = psf_sigma
        self.light: Array = np.zeros((n_frames, height, width))
        self.events: npt.NDArray[np.bool_] = np.zeros((n_frames, height, width), dtype=bool)
        self._strongest: Flow = np.zeros((n_frames, height, width), dtype=np.float32)
        self._to_next: Flow = np.zeros((n_frames, 2, height, width), dtype=np.float32)
        self._to_previous: Flow = np.zeros((n_frames, 2, height, width), dtype=np.float32)

    @property
    def margin(self) -> int:
        """Pixels beyond which the point-spread function carries no light."""
        return int(np.ceil(4.5 * self.psf_sigma)) + 1

    def add(self, frame: int, box: Box, light: Array, to_next: Array, to_previous: Array) -> None:
        """Leave one structure in one frame.

        Parameters
        ----------
        frame : int
        box : Box
            Where the arrays lie; the part outside of the frame is dropped.
        light : ndarray, shape (h, w)
            Light behind the point-spread function.
        to_next, to_previous : ndarray, shape (2, h, w) [px], ordered (dx, dy)
            Displacement of the structure to the frame after and before (ignored past the ends).
        """
        part = box.clipped(self.height, self.width)
        if part.empty:
            return
        inner = (
            slice(part.y0 - box.y0, part.y1 - box.y0),
            slice(part.x0 - box.x0, part.x1 - box.x0),
        )
        outer = (slice(part.y0, part.y1), slice(part.x0, part.x1))
        own = light[inner]
        self.light[frame][outer] += own
        strongest = self._strongest[frame][outer]
        wins = own > strongest
        strongest[wins] = own[wins]
        for field, value in ((self._to_next, to_next), (self._to_previous, to_previous)):
            np.copyto(field[frame][:, *outer], value[:, *inner], where=wins, casting="same_kind")

    def add_emitters(
        self, paths: Array, brightness: Array, *, spread: float = 0.0, fading: Array | None = None
    ) -> None:
        """Leave one structure made of point emitters in every frame.

        Parameters
        ----------
        paths : ndarray, shape (T, n, 2) [px], ordered (x, y)
            Position of every emitter in every frame.
        brightness : ndarray, shape (n,)
            Peak each emitter has alone, behind the reference point-spread function.
        spread : float [px]
            Own Gaussian radius of the emitters, added in quadrature to the PSF.
        fading : ndarray, shape (T,), optional
            Factor on the brightness in each frame.

        Notes
        -----
        The Gaussian is integrated over each pixel, so that a sub-pixel move is rendered exactly.
        The motion at a pixel is the mean over the emitters, weighted with their light there.
        """
        sigma = float(np.hypot(self.psf_sigma, spread))
        energy = brightness * 2.0 * np.pi * (REFERENCE_PSF**2 + spread**2)
        for t in range(self.n_frames):
            points = paths[t]
            box = Box.around(points.min(axis=0), points.max(axis=0), 4.5 * sigma)
            box = box.clipped(self.height, self.width)
            if box.empty:
                continue
            across = _pixel_integral(np.arange(box.x0, box.x1), points[:, 0], sigma)  # (n, w)
            down = _pixel_integral(np.arange(box.y0, box.y1), points[:, 1], sigma)  # (n, h)
            strength = energy if fading is None else energy * fading[t]
            weighted = down * strength[:, None]
            light = weighted.T @ across
            to_next = paths[min(t + 1, self.n_frames - 1)] - points
            to_previous = paths[max(t - 1, 0)] - points
            safe = np.where(light > 1e-12, light, np.inf)
            motions = [
                np.stack([(weighted * move[:, c, None]).T @ across / safe for c in (0, 1)])
                for move in (to_next, to_previous)
            ]
            self.add(t, box, light, motions[0], motions[1])

    def flows(self, threshold: float) -> tuple[Flow, Flow]:
        """Give the true flow, zero where no structure is brighter than ``threshold``.

        Returns
        -------
        to_previous : ndarray, shape (T-1, 2, Y, X) [px]
            Entry t: flow of frame t+1 towards frame t.
        to_next : ndarray, shape (T-1, 2, Y, X) [px]
            Entry t: flow of frame t towards frame t+1.
        """
        seen = (self._strongest > threshold)[:, None]
        to_previous, to_next = (
            np.where(seen & (np.abs(flow) > ROUND_OFF), flow, np.float32(0.0))
            for flow in (self._to_previous, self._to_next)
        )
        return to_previous[1:], to_next[:-1]


def _pixel_integral(pixels: npt.NDArray[np.int_], centres: Array, sigma: float) -> Array:
    """Integral of a unit Gaussian at each centre over each pixel, shape (n, len(pixels))."""
    edges = np.append(pixels, pixels[-1] + 1) - 0.5
    cumulative = 0.5 * erf((edges[None, :] - centres[:, None]) / (np.sqrt(2.0) * sigma))
    return np.diff(cumulative, axis=1)
