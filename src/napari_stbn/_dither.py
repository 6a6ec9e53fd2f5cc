"""Noise that is added to what a fit learns from, where a filter leaves some of it shared.

Frames that were smoothed hold next to no noise in their finest details, and no filter brings back
what is not there. What neighbours tell of such noise, a fit learns. So it is shown frames with a
little more noise, of just those details that hold less: together it is white, and of it the
neighbours tell nothing. What is denoised afterwards are the frames without it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from ._correlation_spectrum import measure_power
from ._generators import part_of, relay
from ._measuring import network_scaling
from ._prepared import KnownNoise, PreparedMovie, PreparedStack
from .correlation import scaled_noise
from .noise import NoiseModel
from .preparation import network_inputs
from .prior import Units

__all__ = ["Dither", "dithered", "measure_dither"]

_LEVEL = 0.98  # part of the details that get as much noise as the strongest of these
_PREDICTABLE = 0.004  # part of the noise that neighbours may tell of a pixel: a fit learns it all
_LOCAL = 2.5  # px over which brightness is averaged, for shot noise; of three frames
_MOVIES = 8  # that are looked at
_SCALED = 8  # frames of each that the scaling is measured on


@dataclass(frozen=True)
class Dither:
    """What has to be added to noise to make it white.

    Attributes
    ----------
    power : ndarray, shape (side, side)
        Spectrum of what is added, over the mean of that of the noise; ordered as by `numpy.fft`.
    ratio : float
        Variance of all noise over that before.
    """

    power: NDArray[np.float64]
    ratio: float

    def draw(
        self, shape: tuple[int, ...], rng: np.random.Generator
    ) -> Iterator[NDArray[np.float64]]:
        """Draw what to add to frames of this shape whose noise has unit variance, without end."""
        half = self.power[: len(self.power) // 2 + 1, : len(self.power) // 2 + 1]
        at = [np.arange(length) * (len(half) - 1) / length for length in shape]
        gain = np.sqrt(ndimage.map_coordinates(half, np.meshgrid(*at, indexing="ij"), order=1))
        while True:
            white = rng.standard_normal(shape)  # its cosines are white noise as well
            yield fft.idctn(white * gain, norm="ortho")


def measure_dither(movies: Sequence[NDArray[np.float32]]) -> Dither | None:
    """Measure what filtered frames lack.

    Parameters
    ----------
    movies : sequence of ndarrays, shape (T, Y, X)
        After the filter; of one camera setting and one size, all finite.

    Returns
    -------
    Dither or None
        None where the noise is as good as white, or too little could be measured.

    Notes
    -----
    The part of a pixel's noise that all others tell is one less the harmonic mean of the spectrum
    over its mean (Kolmogorov), which is the variance of the logarithm where that is small.
    """
    measured = measure_power(movies)
    if measured is None or measured[1] < _PREDICTABLE:
        return None
    power, _ = measured
    level = float(np.quantile(power, _LEVEL))
    added = np.maximum(level - power, 0)
    return Dither(added, 1 + float(added.mean()))


def dithered(prepared: PreparedStack, seed: int) -> Generator[float, None, list[PreparedMovie]]:
    """Movies of a stack for a fit to learn from, with white noise where a filter left it shared.

    Parameters
    ----------
    prepared : PreparedStack
        Not modified.
    seed : int

    Yields
    ------
    float
        Part of a channel that is done, after each of its frames; nothing where none is lacking.

    Returns
    -------
    list of PreparedMovie
        In the order of `prepared.movies`, and the same where nothing is lacking. Motion and
        validity are shared with these.
    """
    movies = dict(prepared.movies)
    for channel in sorted({key[0] for key in movies}):
        keys = [key for key in movies if key[0] == channel]
        own = [movies[key] for key in keys]
        filtered = [
            prepared.noise[c] if prepared.correlation.get(c) is not None else None
            for c in range(channel, channel + len(own[0].units))
        ]
        own = yield from _dithered(own, filtered, (seed, channel))
        movies.update(zip(keys, own, strict=True))
    return list(movies.values())


def _dithered(
    movies: list[PreparedMovie], noise: Sequence[KnownNoise], seed: tuple[int, int]
) -> Generator[float, None, list[PreparedMovie]]:
    """Movies of the same channels; `noise` is that of those which were filtered, else None."""
    found = [
        None
        if model is None
        else measure_dither([m.intensities[:, c].numpy() for m in movies[:_MOVIES]])
        for c, model in enumerate(noise)
    ]
    if not any(found):
        return movies
    units = list(movies[0].units)
    noisy = [movie.intensities.clone() for movie in movies]
    for c, (dither, model) in enumerate(zip(found, noise, strict=True)):
        if dither is None or model is None:
            continue
        for number, frames in enumerate(noisy):
            rng = np.random.default_rng((*seed, c, number))
            yield from relay(
                _add(frames[:, c].numpy(), dither, model, rng), partial(part_of, number, len(noisy))
            )
        more = scaled_noise(model, dither.ratio)
        some = [frames[:: max(1, len(frames) // _SCALED), c].numpy() for frames in noisy[:_MOVIES]]
        units[c] = Units(more, network_scaling(more.stabilize(np.concatenate(some))))
    return [
        replace(movie, intensities=frames, inputs=network_inputs(frames, units), units=tuple(units))
        for movie, frames in zip(movies, noisy, strict=True)
    ]


def _add(
    frames: NDArray[np.float32], dither: Dither, noise: NoiseModel, rng: np.random.Generator
) -> Generator[float, None, None]:
    """Add noise to a movie (T, Y, X) in place, as strong as its own at each brightness."""
    drawn = dither.draw(frames.shape[1:], rng)
    before = frames[0].copy()  # as it was
    for t, frame in enumerate(frames):
        around = (before + frame + frames[min(t + 1, len(frames) - 1)]) / 3
        before[:] = frame
        frame += np.sqrt(noise.variance(ndimage.gaussian_filter(around, _LOCAL))) * next(drawn)
        yield (t + 1) / len(frames)
