"""Stacks as a denoiser sees them: a chain of views, each of which takes something out.

What was denoised in the last of them goes back through all of them to the user's stack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._stack_inference import Output
from .stack import MovieDefects, Stack

__all__ = [
    "Flows",
    "Frames",
    "PartsOutput",
    "Place",
    "Rooms",
    "StackView",
    "output_for_user",
    "views_of",
]

Frames = NDArray[np.float32]
Flows = Mapping[tuple[int, int], Frames]  # (T - 1, 2, Y, X) [px] of each channel and plane
Place = tuple[int, int, int]  # channel, plane, frame

_AT_ONCE = 16  # frames that are handed on together


class StackView(Stack):
    """A stack seen in another way.

    Attributes
    ----------
    source : Stack
        What is seen; itself a view, or the user's.
    """

    source: Stack

    def _see(self, source: Stack, **values: Any) -> None:
        """Take axes and scale of a stack, and further attributes."""
        own = {name: getattr(source, name) for name in Stack.__dataclass_fields__}
        for name, value in {**own, "source": source, **values}.items():
            object.__setattr__(self, name, value)

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis, in the order of `axes`."""
        return self.source.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what is seen, whatever was recorded."""
        return np.dtype(np.float32)

    def read(self, index: tuple[int | slice, ...], axes: str) -> NDArray[Any]:
        """Read a part; see `Stack.read`."""
        return self.source.read(index, axes)

    @property
    def recorded(self) -> Stack:
        """The user's stack."""
        return self.source.recorded

    def remarks(self) -> list[str]:
        """What is worth saying of this view and those below."""
        return self.source.remarks()

    def noise_gain(self, channel: int) -> float:
        """Variance of the noise here over that of a pixel as recorded."""
        return self.source.noise_gain(channel)

    def defects_for_user(
        self, index: tuple[int, int], defects: MovieDefects
    ) -> tuple[tuple[int, int], MovieDefects]:
        """Channel, plane and frames of defects as the source counts them."""
        return self.source.defects_for_user(index, defects)

    def place(self, place: Place) -> Place:
        """Where a frame of the source lies here."""
        return place

    def window(self, rows: slice, columns: slice) -> tuple[slice, slice]:
        """Rows and columns here that show a part of a frame of the source."""
        return rows, columns

    def shown(self, place: Place, image: Frames, rows: slice, columns: slice) -> Frames:  # noqa: ARG002
        """A part of a denoised frame (Y', X') as the source shows it; `place` is the source's."""
        return image

    def flows_for_user(self, flows: Flows, *, forward: bool) -> Flows:  # noqa: ARG002
        """Motion between frames of the source, to the next ones or the last, from that of this."""
        return flows

    def output(self, output: Output, folder: Path | None) -> Output:  # noqa: ARG002
        """What takes denoised frames of this view, for an output that takes those of the source.

        `folder` is where frames may wait; in memory when None.
        """
        return output


def views_of(stack: Stack) -> Iterator[StackView]:
    """The views that a stack is seen through, the last one first."""
    while isinstance(stack, StackView):
        yield stack
        stack = stack.source


def output_for_user(output: Output, stack: Stack, folder: Path | None = None) -> Output:
    """What takes denoised frames of a view and hands them on as the user's stack has them.

    Pixels that are NaN have none: they stay as they were recorded.
    """
    output = _as_it_came(output, stack.recorded)
    for view in reversed([*views_of(stack)]):
        output = view.output(output, folder)
    return output


def _as_it_came(output: Output, stack: Stack) -> Output:
    """What takes denoised frames, for an output that takes what was recorded where they are NaN."""

    def whole(channel: int, plane: int, start: int, mean: Frames, std: Frames | None) -> None:
        gone = np.isnan(mean)
        for t in np.flatnonzero(gone.any((1, 2))).tolist():
            at = slice(start + t, start + t + 1)
            mean[t][gone[t]] = stack.movie(channel, plane, frames=at)[0][gone[t]]
        output(channel, plane, start, mean, std)

    return whole


class Rooms:
    """Room for whole movies whose frames have to wait for others.

    Parameters
    ----------
    shape : (T, Y, X)
    folder : Path, optional
        Where they wait; in memory when None.
    name : str
        That the files of these rooms begin with.
    """

    def __init__(self, shape: tuple[int, int, int], folder: Path | None, name: str) -> None:
        self._shape, self._folder, self._name = shape, folder, name
        self._rooms: dict[tuple[int | str, ...], Frames] = {}

    def __getitem__(self, key: tuple[int | str, ...]) -> Frames:
        """The room of this name, (T, Y, X) float32; made where there is none yet."""
        if key not in self._rooms:
            if self._folder is None:
                self._rooms[key] = np.empty(self._shape, np.float32)
            else:
                file = self._folder / f"{self._name}_{'_'.join(map(str, key))}.raw"
                self._rooms[key] = np.memmap(file, np.float32, "w+", shape=self._shape)
        return self._rooms[key]

    def free(self, key: tuple[int | str, ...]) -> None:
        """Give room back."""
        del self._rooms[key]


class PartsOutput:
    """Takes planes that are parts of a movie, and hands on its frames when all of them are there.

    Parameters
    ----------
    output : Output
        Takes the frames, in order.
    rooms : Rooms
        Where parts wait for the last one, as large as the whole movie.
    shape : (whole, parts, frames)
        Frames of the whole movie, number of its parts, and frames of each.
    fill : callable
        Called with a room (T, Y, X), the number of a part, and frames of it from some place on:
        puts them where they belong.
    """

    def __init__(
        self,
        output: Output,
        rooms: Rooms,
        shape: tuple[int, int, int],
        fill: Callable[[Frames, int, int, Frames], None],
    ) -> None:
        self._output, self._rooms, self._fill = output, rooms, fill
        self._whole, self._parts, self._frames = shape
        self._arrived: dict[tuple[int, int], int] = {}

    def __call__(
        self, channel: int, plane: int, start: int, mean: Frames, std: Frames | None
    ) -> None:
        """Take frames (T', Y', X') from `start` on of one part."""
        plane, part = divmod(plane, self._parts)
        key = channel, plane
        given = {"mean": mean} | ({} if std is None else {"std": std})
        for word, frames in given.items():
            self._fill(self._rooms[(*key, word)], part, start, frames)
        self._arrived[key] = self._arrived.get(key, 0) + len(mean)
        if self._arrived[key] < self._parts * self._frames:
            return
        for at in range(0, self._whole, _AT_ONCE):
            shown = [np.array(self._rooms[(*key, word)][at : at + _AT_ONCE]) for word in given]
            self._output(channel, plane, at, shown[0], shown[1] if std is not None else None)
        for word in given:
            self._rooms.free((*key, word))
