"""A stack whose frames do not fill their field: what is padding counts as not recorded.

Registration shifts and turns frames and fills what is left free with one value; a region that was
cut out leaves another one. Such pixels hold no noise and no light, and an edge that nothing in the
scene explains.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ._defects import is_blank
from ._lazy import MovieView, of_channels
from ._stack_inference import Output
from ._views import Frames, Place, StackView
from .stack import MovieDefects, Stack

__all__ = ["PaddedStack", "padded_stack", "padding_value"]

BoolArray = NDArray[np.bool_]

_FRAMES = 12  # that are looked at
_FRAME = 2**21  # pixels of each, evenly spread, at most
_RUN = 8  # px along an edge, from a corner on, that have the value of the padding
_RARE = 0.002  # of the other pixels that may have the value of the padding by chance
_MOST = 0.6  # of the frames that may be padding


class PaddedStack(StackView):
    """A stack with NaN where its frames are padded.

    Parameters
    ----------
    stack : Stack
    values : mapping of int to float
        Of the padding, of each channel that has some.

    Attributes
    ----------
    values : dict of int to float
    """

    values: dict[int, float]
    _table: NDArray[np.float64]

    def __init__(self, stack: Stack, values: Mapping[int, float]) -> None:
        sizes = [stack.size(a) if a in "CS" else 1 for a in stack.axes]
        self._see(stack, values=dict(values), _table=np.full(sizes, np.nan))
        for channel, value in values.items():
            self._table[self._where(channel)] = value

    def _where(self, channel: int) -> tuple[int | slice, ...]:
        """Index of a channel in the table of values."""
        colour, sample = divmod(channel, self.size("S"))
        at = {"C": colour, "S": sample}
        return tuple(at.get(a, slice(None)) for a in self.axes)

    def read(self, index: tuple[int | slice, ...], axes: str) -> NDArray[Any]:
        """Read a part, float32, with NaN for padding; see `Stack.read`."""
        seen = self.source.read(index, axes)
        whole = [
            i if a in "CS" else 0 if isinstance(i, int) else slice(None)
            for a, i in zip(self.axes, index, strict=True)
        ]
        values = self.picked(self._table, tuple(whole), axes)
        frames = seen.astype(np.float32)
        frames[_with_rim(seen == values)] = np.nan
        return frames

    def remarks(self) -> list[str]:
        """What is worth saying of this view and those below."""
        listed = " and ".join(f"{value:g}" for value in sorted(set(self.values.values())))
        said = (
            f"Frames are padded along their edges with {listed}, as after a registration: this "
            "counts as not recorded, and stays as it is."
        )
        return [*super().remarks(), said]

    def defects_for_user(
        self, index: tuple[int, int], defects: MovieDefects
    ) -> tuple[tuple[int, int], MovieDefects]:
        """Defects but for the padding, which a remark tells of."""
        return self.source.defects_for_user(index, replace(defects, missing=0))

    def shown(self, place: Place, image: Frames, rows: slice, columns: slice) -> Frames:
        """A part of a denoised frame (Y', X') with its padding."""
        channel, plane, frame = place
        if channel not in self.values:
            return image
        recorded = self.source.movie(
            channel, plane, frames=slice(frame, frame + 1), rows=rows, columns=columns
        )[0]
        return np.where(recorded == self.values[channel], recorded, image).astype(np.float32)

    def output(self, output: Output, folder: Path | None) -> Output:  # noqa: ARG002
        """What takes denoised frames, for an output that takes them with their padding."""

        def padded(channel: int, plane: int, start: int, mean: Frames, std: Frames | None) -> None:
            value = self.values.get(channel)
            if value is not None:
                places = slice(start, start + len(mean))
                recorded = self.source.movie(channel, plane, frames=places)
                for t, frame in enumerate(recorded):
                    padding = _padding(frame == value)
                    mean[t][padding] = value
                    if std is not None:
                        std[t][padding] = np.nan
            output(channel, plane, start, mean, std)

        return padded


def padded_stack(stack: Stack) -> Generator[float, None, Stack]:
    """Look for padding in the middle plane of every channel.

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
        A `PaddedStack` where there is some, else the stack itself.
    """
    found = yield from of_channels(stack, padding_value)
    values = {channel: value for channel, value in found.items() if value is not None}
    return PaddedStack(stack, values) if values else stack


def padding_value(movie: NDArray[Any] | MovieView) -> float | None:
    """Value that frames (T, Y, X) are padded with along their edges; None where they are not.

    Some frames are looked at. The value has to fill a frame from a corner on, and hardly be found
    elsewhere: the clipped dark of a camera is everywhere.
    """
    count, (height, width) = len(movie), movie.shape[1:]
    thin = max(1, math.ceil(math.sqrt(height * width / _FRAME)))
    every = slice(None, None, thin)
    places = np.unique(np.linspace(0, count - 1, min(count, _FRAMES)).round().astype(int)).tolist()
    frames = [np.asarray(movie[t : t + 1, every, every])[0] for t in places]
    frames = [frame for frame in frames if not is_blank(frame)]
    values = [value for frame in frames if (value := _cornered(frame)) is not None]
    if not values:
        return None
    value = max(set(values), key=values.count)
    padding = other = by_chance = 0
    for frame in frames:
        same = frame == value
        outside = _padding(same)
        padding += int(outside.sum())
        other += int(frame.size - outside.sum())
        by_chance += int((same & ~outside).sum())
    likely = 0 < padding < _MOST * (padding + other) and by_chance <= _RARE * other
    return value if likely else None


def _cornered(frame: NDArray[Any]) -> float | None:
    """Value that fills the frame (Y, X) from a corner on along an edge, if one does."""
    for edge in (frame[0], frame[-1], frame[:, 0], frame[:, -1]):
        for run in (edge[:_RUN], edge[-_RUN:]):
            if math.isfinite(run[0]) and (run == run[0]).all():
                return float(run[0])
    return None


def _padding(same: BoolArray) -> BoolArray:
    """Pixels (Y, X) from which all up to the edge, in a row or a column, are the same."""
    found = np.zeros_like(same)
    for axis in (0, 1):
        for flip in (False, True):
            ahead = np.flip(same, axis) if flip else same
            run = np.logical_and.accumulate(ahead, axis)
            found |= np.flip(run, axis) if flip else run
    return found


def _with_rim(same: BoolArray) -> BoolArray:
    """Pixels (…, Y, X) that are padding, and those beside it: what was mixed with it."""
    if not same.any():
        return same
    around = (1,) * (same.ndim - 2) + (3, 3)
    dense = ndimage.uniform_filter(same.astype(np.float32), around) > 0.5
    return np.asarray(same | ndimage.binary_dilation(same & dense, np.ones(around, bool)))
