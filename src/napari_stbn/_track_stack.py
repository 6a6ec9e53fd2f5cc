"""A stack seen as movies of every n-th frame, where the frames between are another matter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._frame_spacing import FrameSpacing
from ._stack_inference import Output
from ._views import Flows, Frames, PartsOutput, Place, Rooms, StackView
from .stack import MovieDefects, Stack

__all__ = ["TrackStack"]


class TrackStack(StackView):
    """A stack whose planes are tracks: frames that lie `step` apart, one track for each first one.

    Tracks that end a frame earlier than others get a last frame of NaN.

    Parameters
    ----------
    stack : Stack
    spacing : FrameSpacing

    Attributes
    ----------
    spacing : FrameSpacing
    """

    spacing: FrameSpacing

    def __init__(self, stack: Stack, spacing: FrameSpacing) -> None:
        self._see(stack, spacing=spacing)
        if "Z" not in stack.axes:
            object.__setattr__(self, "axes", "Z" + stack.axes)

    @property
    def step(self) -> int:
        """Frames of the source between two of a track."""
        return self.spacing.step

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis, in the order of `axes`."""
        lengths = {a: self.source.size(a) for a in self.axes}
        lengths["Z"] *= self.step
        lengths["T"] = -(-lengths["T"] // self.step)
        return tuple(lengths[a] for a in self.axes)

    def remarks(self) -> list[str]:
        """What is worth saying of this view and those below."""
        return [*super().remarks(), self.spacing.note]

    def read(self, index: tuple[int | slice, ...], axes: str) -> NDArray[Any]:
        """Read a part of one track, float32; see `Stack.read`."""
        parts = dict(zip(self.axes, index, strict=True))
        plane, frames = parts["Z"], parts["T"]
        if isinstance(plane, slice) or not isinstance(frames, slice):
            raise IndexError("one track is read at a time, and some frames of it")
        parts["Z"], track = divmod(plane, self.step)
        wanted = range(self.n_frames)[frames]
        there = [t for t in wanted if track + self.step * t < self.source.n_frames]
        first = track + self.step * wanted.start
        stop = track + self.step * there[-1] + 1 if there else first
        parts["T"] = slice(first, stop, self.step * wanted.step)
        below = tuple(parts[a] for a in self.source.axes)
        seen = self.source.read(below, axes).astype(np.float32)
        if len(there) == len(wanted):
            return seen
        missing = [(0, len(wanted) - len(there) if a == "T" else 0) for a in axes]
        return np.pad(seen, missing, constant_values=np.nan)

    def place(self, place: Place) -> Place:
        """Where a frame of the source lies here."""
        channel, plane, frame = place
        at, track = divmod(frame, self.step)
        return channel, plane * self.step + track, at

    def defects_for_user(
        self, index: tuple[int, int], defects: MovieDefects
    ) -> tuple[tuple[int, int], MovieDefects]:
        """Plane and frames as the source counts them, without the frames that make tracks equal."""
        channel, (plane, track) = index[0], divmod(index[1], self.step)
        ends = self.n_frames - len(range(track, self.source.n_frames, self.step))
        blank, repeated = (
            tuple(track + self.step * t for t in frames if t < self.n_frames - ends)
            for frames in (defects.constant_frames, defects.repeated)
        )
        missing = max(0, defects.missing - ends * self.frame_shape[0] * self.frame_shape[1])
        told = replace(defects, constant_frames=blank, repeated=repeated, missing=missing)
        return self.source.defects_for_user((channel, plane), told)

    def output(self, output: Output, folder: Path | None) -> Output:
        """What takes denoised frames of tracks, for an output that takes those of the source."""
        whole = self.source.n_frames
        rooms = Rooms((whole, *self.frame_shape), folder, "tracks")
        return PartsOutput(output, rooms, (whole, self.step, self.n_frames), self._fill)

    def _fill(self, whole: Frames, track: int, start: int, frames: Frames) -> None:
        """Put frames of a track, from `start` on, among all of them."""
        first = track + self.step * start
        places = slice(first, first + self.step * len(frames), self.step)
        whole[places] = frames[: len(range(len(whole))[places])]

    def flows_for_user(self, flows: Flows, *, forward: bool) -> Flows:
        """Motion between frames of the source, as if it were even within `step` frames."""
        step, frames = self.step, self.source.n_frames
        joined = {}
        for channel, plane in flows:
            if plane % step:
                continue
            tracks = [flows[channel, plane + track] for track in range(step)]
            whole = np.empty((frames - 1, *tracks[0].shape[1:]), np.float32)
            for pair in range(frames - 1):
                at, track = divmod(pair if forward else pair + 1, step)
                # At either end the nearest pair of the same track
                last = len(range(track, frames, step)) - 2
                near = min(max(at if forward else at - 1, 0), last)
                whole[pair] = tracks[track][near] / np.float32(step)
            joined[channel, plane // step] = whole
        return joined
