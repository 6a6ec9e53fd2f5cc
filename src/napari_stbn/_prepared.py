"""What a raw movie becomes before the network takes it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from .correlation import NoiseCorrelation, scaled_noise
from .flow import FlowChoice, RouteChoice
from .noise import GaussianNoise, MeasuredNoise, PoissonGaussianNoise
from .prior import Units
from .stack import IntensityScaling, Stack

__all__ = ["Index", "KnownNoise", "NoiseChoice", "Phase", "PreparedMovie", "PreparedStack"]

Index = tuple[int, int]  # channel, plane
Phase = Literal["noise", "flow"]
KnownNoise = PoissonGaussianNoise | GaussianNoise | MeasuredNoise | None
NoiseChoice = Literal["estimate", "gaussian"] | KnownNoise


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
    wrong : int
        Pixels that were taken out (`napari_stbn._wrong_pixels`).
    """

    intensities: Tensor
    inputs: Tensor
    valid: Tensor
    flow_to_previous: Tensor
    flow_to_next: Tensor
    units: tuple[Units, ...]
    wrong: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, height and width."""
        t, _, h, w = self.inputs.shape
        return t, h, w

    def crop(self, rows: slice, columns: slice) -> PreparedMovie:
        """The same movie with some rows and columns [px] of every frame; nothing is copied."""
        names = ("intensities", "inputs", "valid", "flow_to_previous", "flow_to_next")
        return replace(self, **{name: getattr(self, name)[..., rows, columns] for name in names})


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
    choices : dict of (channel, plane) to FlowChoice
        Which motion was taken, of movies for which it was chosen.
    routes : dict of (channel, plane) to RouteChoice
        Along which flow the prediction went that motion was estimated on, where it was.
    """

    stack: Stack
    movies: dict[tuple[int, ...], PreparedMovie]
    noise: dict[int, KnownNoise]
    scaling: dict[int, IntensityScaling]
    notes: list[str] = field(default_factory=list)
    correlation: dict[int, NoiseCorrelation | None] = field(default_factory=dict)
    choices: dict[tuple[int, ...], FlowChoice] = field(default_factory=dict)
    routes: dict[tuple[int, ...], RouteChoice] = field(default_factory=dict)

    def pixel_noise(self) -> dict[int, KnownNoise]:
        """Noise of each channel as recorded, before any filter."""
        noise = dict(self.noise)
        for channel, model in noise.items():
            correlation = self.correlation.get(channel)
            if model is None:
                continue
            if correlation is not None:
                model = correlation.pixel_noise(model)
            noise[channel] = scaled_noise(model, 1 / self.stack.noise_gain(channel))
        return noise

    def leader(self, key: tuple[int, ...]) -> PreparedMovie | None:
        """The movie whose motion another one of the stack shares, if it does."""
        channel = self.stack.leader(key[0])
        return None if channel == key[0] else self.movies.get((channel, *key[1:]))

    def moving(self) -> list[PreparedMovie]:
        """The movies that have motion of their own; those that share it change with it."""
        return [movie for key, movie in self.movies.items() if self.leader(key) is None]

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
