"""A raw movie made ready for the network: defects set aside, noise known.

Intensities in network units, flow in both directions.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ._generators import relay
from ._lazy import MovieView
from .correlation import CorrelationChoice, NoiseCorrelation, even_noise, measure_correlation
from .flow import Flow, FlowMethod, whole_flow
from .noise import GaussianNoise, NoiseModel, PoissonGaussianNoise, estimate_noise
from .prior import Units
from .stack import IntensityScaling, MovieDefects, Stack, inspect_movie, validate_movie

__all__ = [
    "Index",
    "KnownNoise",
    "NoiseChoice",
    "Phase",
    "PreparedMovie",
    "PreparedStack",
    "fill_defects",
    "measure_channels",
    "movie_groups",
    "network_scaling",
    "prepare_movie",
    "prepare_stack",
    "read_filled",
    "said_of",
]

Index = tuple[int, int]  # channel, plane
Phase = Literal["noise", "flow"]
KnownNoise = PoissonGaussianNoise | GaussianNoise | None
NoiseChoice = Literal["estimate", "gaussian"] | KnownNoise
_PLANES_MEASURED = 5  # planes of a z-stack that noise and scaling are measured on
_SHORTEST_RUN = 8  # frames of a large movie that shared noise is measured on at least
_PIXELS_SCALED = 2**23  # that the scaling is measured on; frames are left out where there are more


@dataclass(frozen=True)
class PreparedMovie:
    """One movie of C channels, as training and inference take it.

    Attributes
    ----------
    intensities : Tensor, shape (T, C, Y, X), float32 [user's units]
        Noisy intensities; pixels that are not valid hold a guess from their neighbours.
    inputs : Tensor, shape (T, C, Y, X), float32 [network units]
        The same, as the network sees them.
    valid : Tensor, shape (T, 1, Y, X), bool
        False for pixels that were not measured (NaN, infinite, dead, dropped frames): they count in
        no loss, and the posterior there is the prior.
    flow_to_previous, flow_to_next : Tensor, shape (T - 1, 2, Y, X), float32 [px], ordered (dx, dy)
    units : tuple of Units, length C
    """

    intensities: Tensor
    inputs: Tensor
    valid: Tensor
    flow_to_previous: Tensor
    flow_to_next: Tensor
    units: tuple[Units, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, height and width."""
        t, _, h, w = self.inputs.shape
        return t, h, w

    def crop(self, rows: slice, columns: slice) -> PreparedMovie:
        """The same movie with some rows and columns [px] of every frame; nothing is copied."""
        names = ("intensities", "inputs", "valid", "flow_to_previous", "flow_to_next")
        return replace(self, **{name: getattr(self, name)[..., rows, columns] for name in names})


def fill_defects(
    movie: NDArray[Any], defects: MovieDefects
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Replace pixels that carry no measurement by a guess, and say which they are.

    Parameters
    ----------
    movie : ndarray, shape (T, Y, X) [user's units]
        Not modified.
    defects : MovieDefects
        From `napari_stbn.stack.inspect_movie`.

    Returns
    -------
    filled : ndarray, shape (T, Y, X), float32 [user's units]
        NaN, infinite and dead pixels hold the nearest measured pixel of their frame; dropped frames
        hold the nearest measured frame.
    valid : ndarray of bool, shape (T, Y, X)
    """
    filled = movie.astype(np.float32)
    valid = np.ones(movie.shape, bool)
    if defects.nonfinite is not None:
        valid &= ~defects.nonfinite
    if defects.dead is not None:
        valid &= ~defects.dead
    valid[list(defects.constant_frames)] = False
    measured = valid.any(axis=(1, 2))
    for t in np.flatnonzero(measured & ~valid.all(axis=(1, 2))):
        nearest = ndimage.distance_transform_edt(
            ~valid[t], return_distances=False, return_indices=True
        )
        filled[t] = filled[t][tuple(nearest)]
    good = np.flatnonzero(measured)
    for t in np.flatnonzero(~measured) if good.size else ():  # a piece of a movie may have none
        filled[t] = filled[good[np.abs(good - t).argmin()]]
    return filled, valid


def prepare_movie(
    channels: Sequence[NDArray[np.float32]],
    valid: NDArray[np.bool_],
    noise: Sequence[NoiseModel | None],
    scalings: Sequence[IntensityScaling] | None,
    flow: Flow,
) -> PreparedMovie:
    """Put a movie's channels into network units.

    Parameters
    ----------
    channels : sequence of C ndarrays, shape (T, Y, X), float32 [user's units]
        From `fill_defects`.
    valid : ndarray of bool, shape (T, Y, X)
        Pixels that were measured in every channel.
    noise : sequence of C noise models or None
    scalings : sequence of C IntensityScaling, optional
        Of the stabilised movie; fitted when None.
    flow : Flow
        Of the movie, both directions.

    Returns
    -------
    PreparedMovie
    """
    # (T, C, Y, X), without a copy where there is one channel
    stacked = np.stack(channels, 1) if len(channels) > 1 else channels[0][:, None]
    intensities = torch.from_numpy(stacked)
    units = []
    for c, model in enumerate(noise):
        if scalings is None:
            stable = intensities[:, c] if model is None else model.stabilize(intensities[:, c])
            units.append(Units(model, network_scaling(stable.numpy())))
        else:
            units.append(Units(model, scalings[c]))
    return PreparedMovie(
        intensities=intensities,
        inputs=_inputs(intensities, units),
        valid=torch.from_numpy(valid)[:, None],
        flow_to_previous=torch.from_numpy(flow.to_previous),
        flow_to_next=torch.from_numpy(flow.to_next),
        units=tuple(units),
    )


def _inputs(intensities: Tensor, units: Sequence[Units]) -> Tensor:
    """Intensities (T, C, Y, X) in network units; frame by frame, so that all stays in the cache."""
    inputs = torch.empty_like(intensities)
    for noisy, frame in zip(intensities, inputs, strict=True):
        for c, unit in enumerate(units):
            frame[c] = unit.to_network(noisy[c])
    return inputs


@dataclass(frozen=True)
class PreparedStack:
    """All movies of a stack, ready for the network.

    Attributes
    ----------
    stack : Stack
    movies : dict of (channel, plane) to PreparedMovie
        Joint channels share one entry, under channel 0. Parts of a stack that is too large to be
        prepared as a whole have more numbers in their keys (`napari_stbn._sampling`).
    noise : dict of int to noise model or None
        Of each channel.
    scaling : dict of int to IntensityScaling
        Of each channel, after stabilisation.
    notes : list of str
        Sentences for the user: defects found, doubts about the noise.
    correlation : dict of int to NoiseCorrelation or None
        Of each channel. Movies, noise and scaling of a channel that has one are those after
        `NoiseCorrelation.whiten`.
    """

    stack: Stack
    movies: dict[tuple[int, ...], PreparedMovie]
    noise: dict[int, KnownNoise]
    scaling: dict[int, IntensityScaling]
    notes: list[str] = field(default_factory=list)
    correlation: dict[int, NoiseCorrelation | None] = field(default_factory=dict)

    def pixel_noise(self) -> dict[int, KnownNoise]:
        """Noise of each channel as recorded, before any filter."""
        noise = dict(self.noise)
        for channel, model in noise.items():
            correlation = self.correlation.get(channel)
            if correlation is not None and model is not None:
                noise[channel] = correlation.pixel_noise(model)
        return noise

    def around(
        self, key: Index, frame: int, rows: slice, columns: slice
    ) -> tuple[PreparedMovie, int]:
        """A movie in which one frame and its neighbours can be looked at, and that frame's place.

        Parameters
        ----------
        key : (channel, plane)
        frame : int
        rows, columns : slice
            Part of the frames [px].
        """
        return self.movies[key].crop(rows, columns), frame


def prepare_stack(
    stack: Stack,
    *,
    joint: bool,
    noise: NoiseChoice,
    flow: FlowMethod,
    known_noise: Mapping[int, KnownNoise],
    known_scaling: Mapping[int, IntensityScaling],
    correlation: CorrelationChoice = "off",
    known_correlation: Mapping[int, NoiseCorrelation | None] | None = None,
) -> Generator[tuple[Phase, float], None, PreparedStack]:
    """Measure the noise of every channel, the flow of every movie, and convert to network units.

    Parameters
    ----------
    stack : Stack
    joint : bool
        Channels are denoised together and share one flow.
    noise : {"estimate", "gaussian"} or noise model or None
        How to know the noise of a channel that is not in `known_noise`.
    flow : str
        Method of `napari_stbn.flow.estimate_flow`.
    known_noise, known_scaling : mapping of int to noise model and IntensityScaling
        Of channels already measured, such as by the fit of a loaded model.
    correlation : {"auto", "off"}, default "off"
        Whether to look for noise that pixels share in a channel that is not in `known_noise`, and
        to make it independent.
    known_correlation : mapping of int to NoiseCorrelation or None, optional
        That of the channels in `known_noise`.

    Yields
    ------
    (phase, fraction)
        After each channel and each pair of frames.

    Returns
    -------
    PreparedStack

    Raises
    ------
    ValueError
        If a movie cannot be denoised.
    """
    stack.check()
    prepared = PreparedStack(
        stack,
        {},
        dict(known_noise),
        dict(known_scaling),
        correlation=dict(known_correlation or {}),
    )
    yield from measure_channels(prepared, noise, correlation)
    groups = movie_groups(stack, joint)
    for number, (key, members) in enumerate(groups.items()):
        filled, valid = read_filled(prepared, members)
        both = yield from relay(
            whole_flow(sum(filled[1:], filled[0]), flow),
            partial(_share, "flow", number, len(groups)),
        )
        models = [prepared.noise[c] for c, _ in members]
        scalings = [prepared.scaling[c] for c, _ in members]
        prepared.movies[key] = prepare_movie(filled, valid, models, scalings, both)
    return prepared


def movie_groups(stack: Stack, joint: bool) -> dict[Index, list[Index]]:
    """What is denoised together: (channel, plane) of the movies, under that of the first."""
    groups: dict[Index, list[Index]] = {}
    for channel, plane in stack.indices():
        groups.setdefault((0 if joint else channel, plane), []).append((channel, plane))
    return groups


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
    for channel in range(count):
        if channel in prepared.noise:
            _say_filter(prepared, channel)
        else:
            yield from relay(
                _measure_channel(prepared, channel, choice, look, pixels),
                partial(_share, "noise", channel, count),
            )
        yield "noise", (channel + 1) / count


def read_filled(
    prepared: PreparedStack,
    members: Sequence[Index],
    *,
    frames: slice | None = None,
    rows: slice | None = None,
    columns: slice | None = None,
) -> tuple[list[NDArray[np.float32]], NDArray[np.bool_]]:
    """The channels of one movie with defects filled, and where all of them were measured.

    Raises
    ------
    ValueError
        If there is nothing to denoise in a channel.
    """
    stack = prepared.stack
    filled: list[NDArray[np.float32]] = []
    valid: NDArray[np.bool_] | None = None
    for channel, plane in members:
        movie = stack.movie(channel, plane, frames=frames, rows=rows, columns=columns)
        validate_movie(movie, what=MovieView(stack, channel, plane).title)
        defects = inspect_movie(movie)
        prepared.notes.extend(said_of(stack, (channel, plane), defects))
        channel_filled, channel_valid = fill_defects(movie, defects)
        correlation = prepared.correlation.get(channel)
        filled.append(channel_filled if correlation is None else correlation.whiten(channel_filled))
        valid = channel_valid if valid is None else valid & channel_valid
    if valid is None:
        raise ValueError("a movie has at least one channel")
    return filled, valid


def said_of(stack: Stack, index: Index, defects: MovieDefects) -> list[str]:
    """Sentences about the defects of one movie of a stack."""
    channel, plane = index
    where = "" if len(stack.indices()) == 1 else f"Channel {channel}, plane {plane}: "
    return [where + sentence for sentence in defects.sentences()]


def _share(phase: Phase, number: int, count: int, fraction: float) -> tuple[Phase, float]:
    """How far a phase is when one of its parts is."""
    return phase, (number + fraction) / count


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
    correlation = None
    if look != "off":
        arrays = [view[_run(view, len(views), pixels)] for view in views]
        correlation = yield from _make_white(arrays)
        if correlation is not None:
            movies = list(arrays)
    prepared.correlation[channel] = correlation
    _say_filter(prepared, channel)
    noise: KnownNoise
    if choice == "gaussian":
        sigmas = [GaussianNoise.estimate(movie).sigma for movie in movies]
        noise = GaussianNoise(float(np.median(sigmas)))
    elif choice == "estimate":
        fits = []
        for movie in movies:
            fits.append(estimate_noise(movie))
            yield 0.9 * len(fits) / len(movies)
        best = min(fits, key=lambda fit: (fit.uncertain, fit.gain_std_error / fit.model.gain))
        noise = best.model if correlation is None else even_noise(best)
        if best.note:
            prepared.notes.append(f"Noise of channel {channel}: {best.note}")
    else:
        noise = choice
        if correlation is not None and noise is not None:
            noise = correlation.white_noise(noise)
    most = _PIXELS_SCALED if pixels is None else pixels
    every = max(1, math.ceil(sum(movie.size for movie in movies) / most))
    picked = len(movies) * len(range(0, len(movies[0]), every)) * math.prod(stack.frame_shape)
    thin = max(1, math.ceil(picked / most))  # rows of frames that are larger than that by one
    values = np.stack([movie[::every, ::thin] for movie in movies]).astype(np.float32)
    values[np.isinf(values)] = np.nan  # both are left out of the scaling; NaN passes in silence
    prepared.noise[channel] = noise
    prepared.scaling[channel] = network_scaling(
        values if noise is None else noise.stabilize(values)
    )


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
        note = correlation.note
        prepared.notes.append(f"Channel {channel}: {note}" if several else note)


def _make_white(
    movies: list[NDArray[Any]],
) -> Generator[float, None, NoiseCorrelation | None]:
    """Measure the noise that pixels share; where there is some, make the movies' noise white."""
    yield 0.0
    filled = [fill_defects(movie, inspect_movie(movie))[0] for movie in movies]
    fit = measure_correlation(filled)
    if fit.correlation is not None:
        for number, movie in enumerate(filled):
            yield 0.0
            movies[number] = fit.correlation.whiten(movie)
    return fit.correlation


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
