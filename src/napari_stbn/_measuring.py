"""Noise, noise that pixels share, and scaling of every channel, measured on a part of the stack."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._filling import recorded_frames
from ._generators import part_of, relay
from ._lazy import MovieView
from ._prepared import KnownNoise, NoiseChoice, Phase, PreparedStack
from .correlation import (
    CorrelationChoice,
    CorrelationFit,
    even_noise,
    measure_correlation,
    said_besides,
    scaled_noise,
)
from .noise import GaussianNoise, estimate_noise
from .stack import IntensityScaling, Stack, validate_movie

__all__ = ["measure_channels", "network_scaling", "share"]

_PLANES_MEASURED = 5  # planes of a z-stack that noise and scaling are measured on
_SHORTEST_RUN = 8  # frames of a large movie that shared noise is measured on at least
_PIXELS_SCALED = 2**23  # that the scaling is measured on; frames are left out where there are more


def measure_channels(
    prepared: PreparedStack,
    choice: NoiseChoice,
    look: CorrelationChoice = "off",
    pixels: int | None = None,
) -> Generator[tuple[Phase, float], None, None]:
    """Noise model and scaling of every channel that has none yet; reads a part of the stack.

    Parameters
    ----------
    prepared : PreparedStack
        Gets them.
    choice, look
        `noise` and `correlation` of `prepare_stack`.
    pixels : int, optional
        That shared noise and scaling are measured on, at most; all movies are read when None.
    """
    count = prepared.stack.n_channels
    prepared.notes.extend(prepared.stack.remarks())
    for channel in range(count):
        if channel in prepared.noise:
            _say_filter(prepared, channel)
        else:
            yield from relay(
                _measure_channel(prepared, channel, choice, look, pixels),
                partial(share, "noise", channel, count),
            )
        yield "noise", (channel + 1) / count


def share(phase: Phase, number: int, count: int, fraction: float) -> tuple[Phase, float]:
    """How far a phase is when one of its parts is."""
    return phase, part_of(number, count, fraction)


def _measure_channel(
    prepared: PreparedStack,
    channel: int,
    choice: NoiseChoice,
    look: CorrelationChoice,
    pixels: int | None,
) -> Generator[float, None, None]:
    """Noise, its correlation, and scaling of a channel, from planes spread over the stack."""
    stack = prepared.stack
    spread = np.linspace(0, stack.n_planes - 1, min(_PLANES_MEASURED, stack.n_planes))
    planes = sorted({round(float(plane)) for plane in spread})
    views = [MovieView(stack, channel, plane) for plane in planes]
    for view in views:
        validate_movie(view, what=view.title)
    movies: list[NDArray[Any] | MovieView] = list(views)
    correlation, white = None, False
    if look != "off":
        white = not (yield from _is_witnessed(stack, channel, planes, pixels))
        if not white:
            arrays = [view[_run(view, len(views), pixels)] for view in views]
            found = yield from _make_white(arrays)
            correlation, white = found.correlation, found.white
            if correlation is not None:
                movies = [movie for movie in arrays if len(movie) > 1]
    prepared.correlation[channel] = correlation
    _say_filter(prepared, channel)
    noise: KnownNoise
    if choice == "gaussian":
        sigmas = [GaussianNoise.estimate(movie).sigma for movie in movies]
        noise = GaussianNoise(float(np.median(sigmas)))
    elif choice == "estimate":
        fits = []
        for movie in movies:
            fits.append(estimate_noise(movie, white=white))
            yield 0.9 * len(fits) / len(movies)
        best = min(fits, key=lambda fit: (fit.uncertain, fit.gain_std_error / fit.model.gain))
        noise = best.best if correlation is None else even_noise(best)
        note = best.note if correlation is None else said_besides(best)
        if note:
            prepared.notes.append(f"Noise of {stack.channel_name(channel)}: {note}")
    else:
        noise = choice
        if noise is not None:  # that of a pixel as recorded
            noise = scaled_noise(noise, stack.noise_gain(channel))
        if correlation is not None and noise is not None:
            noise = correlation.white_noise(noise)
    most = _PIXELS_SCALED if pixels is None else pixels
    every = max(1, math.ceil(sum(movie.size for movie in movies) / most))
    picked = len(movies) * len(range(0, len(movies[0]), every)) * math.prod(stack.frame_shape)
    thin = max(1, math.ceil(picked / most))  # rows of frames that are larger than that by one
    values = np.stack([movie[::every, ::thin] for movie in movies]).astype(np.float32)
    values[np.isinf(values)] = np.nan  # both are left out of the scaling; NaN passes in silence
    values[(values == values[..., :1, :1]).all((-2, -1))] = np.nan  # and so are blank frames
    prepared.noise[channel] = noise
    prepared.scaling[channel] = network_scaling(
        values if noise is None else noise.stabilize(values)
    )


def _is_witnessed(
    stack: Stack, channel: int, planes: Sequence[int], pixels: int | None
) -> Generator[float, None, bool]:
    """Whether noise that pixels share is in the channel that would have it too, if there is one."""
    witness = stack.witness(channel)
    if witness is None:
        return True
    yield 0.0
    views = [MovieView(stack, witness, plane) for plane in planes]
    movies = [view[_run(view, len(views), pixels)] for view in views]
    return _shared_noise(movies)[1].correlation is not None


def _run(view: MovieView, count: int, pixels: int | None) -> slice:
    """Consecutive frames from the middle of a movie, so that `count` such hold so many pixels."""
    if pixels is None:
        return slice(None)
    length = max(_SHORTEST_RUN, pixels // (count * math.prod(view.shape[1:])))
    first = max(0, (len(view) - length) // 2)
    return slice(first, first + length)


def _say_filter(prepared: PreparedStack, channel: int) -> None:
    """Note that a channel is filtered, whether that was found now or by an earlier fit."""
    correlation = prepared.correlation.get(channel)
    if correlation is not None:
        several = prepared.stack.n_channels > 1
        note, name = correlation.note, prepared.stack.channel_name(channel)
        prepared.notes.append(f"{name[0].upper()}{name[1:]}: {note}" if several else note)


def _make_white(
    movies: list[NDArray[Any]],
) -> Generator[float, None, CorrelationFit]:
    """Measure the noise that pixels share; where there is some, make the movies' noise white."""
    yield 0.0
    filled, found = _shared_noise(movies)
    if found.correlation is not None:
        for number, movie in enumerate(filled):
            yield 0.0
            movies[number] = found.correlation.whiten(movie)
    return found


def _shared_noise(
    movies: Sequence[NDArray[Any]],
) -> tuple[list[NDArray[np.float32]], CorrelationFit]:
    """Movies without blank frames, defects filled, and the noise that their pixels share."""
    filled = [recorded_frames(movie) for movie in movies]
    several = [movie for movie in filled if len(movie) > 1]
    return filled, measure_correlation(several) if several else CorrelationFit(None)


def network_scaling(stable: NDArray[Any]) -> IntensityScaling:
    """Scaling to mean 0 and standard deviation 1, one for the whole movie.

    Parameters
    ----------
    stable : ndarray, any shape
        Stabilised intensities; NaN and infinities are ignored.

    Returns
    -------
    IntensityScaling
        Values beyond the robust range of `IntensityScaling.fit` count as its ends, so that hot
        pixels do not set the scale. Unit size matters: with the range brought to 0..1 instead, the
        fit needs several times the steps where bright structures are rare.
    """
    spread = IntensityScaling.fit(stable)
    inside = np.clip(spread.apply(stable), 0, 1)
    inside = inside[np.isfinite(inside)]
    mean, std = float(inside.mean()), float(inside.std())
    scale = spread.scale * std if std > 0 else 1.0
    return IntensityScaling(spread.offset + spread.scale * mean, scale)
