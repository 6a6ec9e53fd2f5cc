"""A stack of channels that were not recorded in every frame: each seen as the frames that it has.

Where one channel is recorded every tenth time, files hold blank frames between. Filled with guesses
they would stand between frames that could tell each other something.
"""

from __future__ import annotations

import bisect
from collections.abc import Generator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._defects import is_blank
from ._generators import part_of
from ._lazy import MovieView
from ._stack_inference import Output
from ._views import Flows, Frames, Place, StackView
from .stack import MovieDefects, Stack

__all__ = ["GatheredStack", "gathered_stack"]

Key = tuple[int, int]  # channel C, plane
_MANY = 0.25  # of the frames that are blank; fewer are filled
_THIN = 16  # every so many-th pixel along each axis tells most frames that are not blank


class GatheredStack(StackView):
    """A stack whose movies are their recorded frames, one after the other.

    Movies with fewer of them than others have frames of NaN at their end.

    Parameters
    ----------
    stack : Stack
    places : mapping of (channel C, plane) to list of int
        Recorded frames of every movie, at least 2.

    Attributes
    ----------
    places : dict
    """

    places: dict[Key, list[int]]

    def __init__(self, stack: Stack, places: Mapping[Key, list[int]]) -> None:
        self._see(stack, places=dict(places))

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis, in the order of `axes`."""
        frames = max(len(own) for own in self.places.values())
        pairs = zip(self.axes, self.source.shape, strict=True)
        return tuple(frames if axis == "T" else length for axis, length in pairs)

    def _own(self, channel: int, plane: int) -> list[int]:
        """Recorded frames of a movie."""
        return self.places[channel // self.size("S"), plane]

    def read(self, index: tuple[int | slice, ...], axes: str) -> NDArray[Any]:
        """Read a part of one channel and plane, float32; see `Stack.read`."""
        parts = dict(zip(self.axes, index, strict=True))
        colour, plane, frames = parts.get("C", 0), parts.get("Z", 0), parts["T"]
        if isinstance(colour, slice) or isinstance(plane, slice) or isinstance(frames, int):
            raise IndexError("one movie is read at a time, and some frames of it")
        own, wanted = self.places[colour, plane], range(self.n_frames)[frames]
        there = [own[t] for t in wanted if t < len(own)]
        first, last = (there[0], there[-1]) if there else (0, 0)
        parts["T"] = slice(first, last + 1)
        seen = self.source.read(tuple(parts[a] for a in self.axes), axes)
        seen = np.take(seen, [t - first for t in there], axes.index("T")).astype(np.float32)
        missing = [(0, len(wanted) - len(there) if a == "T" else 0) for a in axes]
        return np.pad(seen, missing, constant_values=np.nan)

    def defects_for_user(
        self, index: tuple[int, int], defects: MovieDefects
    ) -> tuple[tuple[int, int], MovieDefects]:
        """Frames as the source counts them, with those that are blank there."""
        own = self._own(*index)
        ends = self.n_frames - len(own)
        found, repeated = (
            [own[t] for t in frames if t < len(own)]
            for frames in (defects.constant_frames, defects.repeated)
        )
        blank = {*range(self.source.n_frames)} - {*own}
        told = replace(
            defects,
            constant_frames=tuple(sorted({*found, *blank})),
            repeated=tuple(repeated),
            missing=max(0, defects.missing - ends * self.frame_shape[0] * self.frame_shape[1]),
        )
        return self.source.defects_for_user(index, told)

    def place(self, place: Place) -> Place:
        """Where a frame of the source lies here; of a blank one, the next that is recorded."""
        channel, plane, frame = place
        own = self._own(channel, plane)
        return channel, plane, min(bisect.bisect_left(own, frame), len(own) - 1)

    def shown(self, place: Place, image: Frames, rows: slice, columns: slice) -> Frames:
        """A part of a denoised frame (Y', X'), or of a blank one as it was recorded."""
        channel, plane, frame = place
        if frame in self._own(channel, plane):
            return image
        one = slice(frame, frame + 1)
        recorded = self.source.movie(channel, plane, frames=one, rows=rows, columns=columns)
        return np.asarray(recorded[0], np.float32)

    def output(self, output: Output, folder: Path | None) -> Output:  # noqa: ARG002
        """What takes denoised frames, for an output that takes the blank ones between too."""

        def blank(channel: int, plane: int, frames: range, certain: bool) -> None:
            for t in frames:
                mean = self.source.movie(channel, plane, frames=slice(t, t + 1)).astype(np.float32)
                output(channel, plane, t, mean, np.full_like(mean, np.nan) if certain else None)

        def spread(channel: int, plane: int, start: int, mean: Frames, std: Frames | None) -> None:
            own = self._own(channel, plane)
            for place in range(start, min(start + len(mean), len(own))):
                before = own[place - 1] + 1 if place else 0
                blank(channel, plane, range(before, own[place]), std is not None)
                at = slice(place - start, place - start + 1)
                output(channel, plane, own[place], mean[at], None if std is None else std[at])
                if place == len(own) - 1:
                    rest = range(own[place] + 1, self.source.n_frames)
                    blank(channel, plane, rest, std is not None)

        return spread

    def flows_for_user(self, flows: Flows, *, forward: bool) -> Flows:  # noqa: ARG002
        """Motion between frames of the source: even within gaps, none beyond the last frame."""
        spread = {}
        for (channel, plane), flow in flows.items():
            whole = np.zeros((self.source.n_frames - 1, *flow.shape[1:]), np.float32)
            own = self._own(channel, plane)
            for pair, (first, second) in enumerate(pairwise(own)):
                whole[first:second] = flow[pair] / np.float32(second - first)
            spread[channel, plane] = whole
        return spread


def gathered_stack(stack: Stack) -> Generator[float, None, Stack]:
    """Look for movies of which many frames are blank; looks at every frame.

    Parameters
    ----------
    stack : Stack

    Yields
    ------
    float
        Part of the work that is done, 0 to 1.

    Returns
    -------
    Stack
        A `GatheredStack` where there are some, else the stack itself.
    """
    places: dict[Key, list[int]] = {}
    most = 0.0
    movies = [(c, z) for c in range(stack.size("C")) for z in range(stack.n_planes)]
    for number, (colour, plane) in enumerate(movies):
        if number:
            yield part_of(number, len(movies), 0.0)
        first = colour * stack.size("S")
        views = [MovieView(stack, first + s, plane) for s in range(stack.size("S"))]
        own = [t for t in range(stack.n_frames) if not all(_is_blank(view, t) for view in views)]
        if len(own) < 2:  # nothing to gather
            own = list(range(stack.n_frames))
        places[colour, plane] = own
        most = max(most, 1 - len(own) / stack.n_frames)
    return GatheredStack(stack, places) if most >= _MANY else stack


def _is_blank(view: MovieView, t: int) -> bool:
    """Whether a frame is blank, by few of its pixels where they say so."""
    frame, thin = slice(t, t + 1), slice(None, None, _THIN)
    return is_blank(view[frame, thin, thin]) and is_blank(view[frame])
