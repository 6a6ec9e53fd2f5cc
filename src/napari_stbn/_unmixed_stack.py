"""A stack whose frames hold a part of what was shown before, seen without it.

A recursive filter shows ``y[t] = (1 - c) x[t] + c y[t-1]``; microscopes call it Kalman. Given c,
the frames x as they were recorded follow exactly, and with them noise that is independent. Where y
was not recorded, as in a blank frame, it tells nothing: the next x is taken to be y, as the first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._defects import is_blank
from ._stack_inference import Output
from ._views import Frames, StackView
from .stack import MovieDefects, Stack

__all__ = ["UnmixedStack", "mixed", "noise_gain", "unmixed", "unmixed_array"]


class UnmixedStack(StackView):
    """A stack without what its frames hold of those before.

    Parameters
    ----------
    stack : Stack
    carry : mapping of int to float, 0 to 1
        c above, of each channel.
    note : str
        What is worth saying of it.

    Attributes
    ----------
    carry : dict of int to float
    note : str
    """

    carry: dict[int, float]
    note: str
    _blank: dict[tuple[int, int, int], bool]  # channel, plane, frame that was looked at whole

    def __init__(self, stack: Stack, carry: Mapping[int, float], note: str) -> None:
        self._see(stack, carry=dict(carry), note=note, _blank={})

    def read(self, index: tuple[int | slice, ...], axes: str) -> NDArray[Any]:
        """Read a part of one channel and plane or of all its colours, float32; see `Stack.read`.

        Blank frames are NaN.
        """
        parts = dict(zip(self.axes, index, strict=True))
        frames = parts["T"]
        if not isinstance(frames, slice):
            raise IndexError("some frames are read at a time")
        start, stop, stride = frames.indices(self.n_frames)
        before = max(0, start - 1)
        parts["T"] = slice(before, stop)
        seen = self.source.read(tuple(parts[a] for a in self.axes), axes).astype(np.float32)
        seen = np.moveaxis(seen, axes.index("T"), 0)
        others, channels = axes.replace("T", ""), self._channels(parts)
        movies = np.moveaxis(seen, 1 + others.index("S"), 0) if "S" in others else seen[None]
        for channel, movie in zip(channels, movies, strict=True):
            self._take_out_blank(movie, channel, _number(parts.get("Z", 0)), before)
        carry = np.array([self.carry.get(channel, 0.0) for channel in channels], np.float32)
        carry = carry.reshape([-1 if axis == "S" else 1 for axis in others])
        first = seen[:1] if start == 0 else seen[:0]  # the filter began with it
        clean = np.concatenate([first, unmixed(seen, carry)[1:]])
        return np.moveaxis(clean[::stride], 0, axes.index("T"))

    def _channels(self, parts: Mapping[str, int | slice]) -> Sequence[int]:
        """Channels that are read: one, or some along the axis S of colours."""
        samples, at = self.size("S"), parts.get("S", 0)
        own = range(self.n_channels)[_number(parts.get("C", 0)) * samples :][:samples]
        return own[at] if isinstance(at, slice) else [own[at]]

    def _take_out_blank(self, movie: Frames, channel: int, plane: int, first: int) -> None:
        """Set blank frames to NaN, in a part (T', …) of a movie from frame `first` on."""
        for t, frame in enumerate(movie, first):
            if is_blank(frame) and self._is_blank(channel, plane, t):
                frame[:] = np.nan

    def _is_blank(self, channel: int, plane: int, t: int) -> bool:
        """Whether all of a frame is blank; a dark part of one may well be."""
        key = channel, plane, t
        if key not in self._blank:
            whole = self.source.movie(channel, plane, frames=slice(t, t + 1))[0]
            self._blank[key] = is_blank(whole)
        return self._blank[key]

    def remarks(self) -> list[str]:
        """What is worth saying of this view and those below."""
        return [*super().remarks(), self.note]

    def noise_gain(self, channel: int) -> float:
        """Variance of the noise here over that of a pixel as recorded."""
        return noise_gain(self.carry.get(channel, 0.0)) * super().noise_gain(channel)

    def defects_for_user(
        self, index: tuple[int, int], defects: MovieDefects
    ) -> tuple[tuple[int, int], MovieDefects]:
        """Defects without the pixels of blank frames, which are NaN here alone."""
        blank = len(defects.constant_frames) * math.prod(self.frame_shape)
        told = replace(defects, missing=max(0, defects.missing - blank))
        return self.source.defects_for_user(index, told)

    def output(self, output: Output, folder: Path | None) -> Output:  # noqa: ARG002
        """What takes denoised frames, for an output that takes them as the filter shows them.

        Errors of a frame and of the one before are taken as one: they are nearly the same.
        """
        last: dict[tuple[int, int], tuple[Frames, Frames | None]] = {}

        def filtered(
            channel: int, plane: int, start: int, mean: Frames, std: Frames | None
        ) -> None:
            carry = self.carry.get(channel, 0.0)
            before, spread = last.get((channel, plane), (None, None)) if start else (None, None)
            mean = mixed(mean, carry, before)
            std = None if std is None else mixed(std, carry, spread)
            last[channel, plane] = mean[-1], None if std is None else std[-1]
            output(channel, plane, start, mean, std)

        return filtered


def _number(part: int | slice) -> int:
    """Of a channel or plane, of which one is read at a time."""
    if isinstance(part, slice):
        raise IndexError("one channel and plane is read at a time")
    return part


def unmixed_array(stack: Stack, carry: Mapping[int, float]) -> Frames:
    """All of a stack in memory, float32, with its channels `unmixed`, of whatever they hold."""
    seen = UnmixedStack(stack, carry, "")
    movies = {index: seen.movie(*index) for index in stack.indices()}
    return stack.assemble(movies, np.float32)


def noise_gain(carry: float) -> float:
    """Variance of independent noise over that which a recursive filter leaves of it."""
    return (1 + carry) / (1 - carry)


def unmixed(frames: Frames, carry: float | NDArray[np.float32]) -> Frames:
    """Frames (T, …) without the part that each holds of the one before; the first as it is.

    So are pixels before which nothing was recorded.
    """
    clean, before = frames.copy(), frames[:-1]
    without = (frames[1:] - carry * before) / (1 - carry)
    clean[1:] = np.where(np.isfinite(before), without, frames[1:])
    return clean


def mixed(frames: Frames, carry: float, before: Frames | None = None) -> Frames:
    """Frames (T, Y, X) as a recursive filter shows them after the frame `before`."""
    shown = frames.copy()
    for frame in shown:
        if before is not None:  # where nothing was recorded, the filter begins anew
            kept = np.isfinite(before)
            frame[kept] += np.float32(carry) * (before - frame)[kept]
        before = frame
    return shown
